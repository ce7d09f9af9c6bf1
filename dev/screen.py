# SPDX-License-Identifier: Apache-2.0
"""Terminal output of the demo: permanent lines above live progress bars; without a terminal, lines only."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

_BAR_CELLS = 24
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "grey": 90}
NAME_COLOURS = ("cyan", "magenta", "blue", "yellow")


class Screen:
    """Output of the demo.

    On a terminal, bars are redrawn in place below the lines. Otherwise, each change of a bar is a new line,
    and no control codes are written.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self.is_live = self._out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._has_colour = self.is_live and "NO_COLOR" not in os.environ
        self._bars: dict[str, tuple[float, str]] = {}
        self._drawn = 0

    def colour(self, text: str, colour: str, *, bold: bool = False) -> str:
        """Return colored text if the terminal has colors."""
        if not self._has_colour:
            return text
        return f"\x1b[{'1;' if bold else ''}{_COLOURS[colour]}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        """Write a permanent line."""
        self._erase()
        self._out.write(text + "\n")
        self._draw()

    def event(self, name: str, text: str) -> None:
        """Write a permanent line with a heading."""
        self.line(f"  {self._name(name)} {text}")

    def bar(self, name: str, percent: float, message: str) -> None:
        """Update a progress bar."""
        if self._bars.get(name) == (percent, message):
            return
        self._erase()
        self._bars[name] = (percent, message)
        if not self.is_live:
            self._out.write(self._bar_line(name) + "\n")
        self._draw()

    def remove_bar(self, name: str) -> None:
        """Remove a progress bar."""
        self._erase()
        self._bars.pop(name, None)
        self._draw()

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table whose last column is numeric."""
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        for row in (head, ["─" * width for width in widths], *rows):
            *texts, number = row
            cells = [text.ljust(width) for text, width in zip(texts, widths, strict=False)]
            self.line("  " + "  ".join([*cells, number.rjust(widths[-1])]))

    def _name(self, name: str) -> str:
        return self.colour(name.ljust(26), NAME_COLOURS[sum(name.encode()) % len(NAME_COLOURS)])

    def _bar_line(self, name: str) -> str:
        percent, message = self._bars[name]
        full = round(_BAR_CELLS * percent / 100)
        bar = self.colour("█" * full, "green") + self.colour("░" * (_BAR_CELLS - full), "grey")
        columns = shutil.get_terminal_size().columns - _BAR_CELLS - 38
        shown = message[: max(0, columns)] if self.is_live else message
        return f"  {self._name(name)} {bar} {percent:3.0f} % {shown}".rstrip()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _draw(self) -> None:
        if self.is_live:
            for name in self._bars:
                self._out.write(self._bar_line(name) + "\n")
            self._drawn = len(self._bars)
        self._out.flush()
