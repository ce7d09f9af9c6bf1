# SPDX-License-Identifier: Apache-2.0
"""Retries of measurements that fail occasionally: failed runs are counted and repeated."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

MOST_FAILURES = 5


class RunFailed(Exception):
    """A Dag run failed and has no measurement."""


class Repeater:
    """Repeats failed runs and counts them by subject."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()

    def measure(self, name: str, run: Callable[[], T]) -> T:
        """Return the measurement of the first run that succeeds.

        :param name: of who is measured
        :raises RunFailed: so many have failed in a row that this is no accident; or TimeoutError
        """
        for number in range(1, MOST_FAILURES + 1):
            try:
                return run()
            except (RunFailed, TimeoutError) as failed:
                self._failures[name] += 1
                print(f"{name}: a run failed, and is repeated: {failed}")
                if number == MOST_FAILURES:
                    raise
        raise AssertionError("unreachable")

    def print_failures(self) -> None:
        """Print the number of failed runs."""
        for name, count in self._failures.items():
            print(f"{name:22} {count} runs failed and were repeated; they are not in the numbers")


def run_parts(parts: Mapping[str, Callable[[], None]]) -> bool:
    """Run every part, even if one fails; return whether all succeeded."""
    broken = []
    for name, run in parts.items():
        try:
            run()
        except Exception:  # noqa: BLE001 - other parts do not depend on it
            traceback.print_exc()
            broken.append(name)
    if broken:
        print(f"\nNot measured, for the reasons above: {', '.join(broken)}")
    return not broken
