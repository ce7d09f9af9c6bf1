# SPDX-License-Identifier: Apache-2.0
"""Measurements that fail now and then: such a run is counted and repeated, and ends nothing else."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

MOST_FAILURES = 5


class RunFailed(Exception):
    """A run of a Dag has ended otherwise than in success: it measures nothing."""


class Repeater:
    """Repeats runs that fail, and counts them by who was measured."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()

    def measure(self, name: str, run: Callable[[], T]) -> T:
        """Return what a run measures, the first that does not fail.

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
        """Print how many runs have failed."""
        for name, count in self._failures.items():
            print(f"{name:22} {count} runs failed and were repeated; they are not in the numbers")


def run_parts(parts: Mapping[str, Callable[[], None]]) -> bool:
    """Run each part, also after one that breaks; tell whether all went well."""
    broken = []
    for name, run in parts.items():
        try:
            run()
        except Exception:  # noqa: BLE001 - the other parts measure something else
            traceback.print_exc()
            broken.append(name)
    if broken:
        print(f"\nNot measured, for the reasons above: {', '.join(broken)}")
    return not broken
