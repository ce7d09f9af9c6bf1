# SPDX-License-Identifier: Apache-2.0
"""Command lines: polls those of all processes, like a user of ``ps``."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

LOOK_EVERY_SECONDS = 0.1


class CommandLines:
    """Collects all command lines that appear between entry and exit."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._look, name="command-lines", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._leaving.wait(LOOK_EVERY_SECONDS):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # the process has ended meanwhile
                    self.seen.add(path.read_bytes())
