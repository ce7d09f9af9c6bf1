# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of a server process and its children."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

_SAMPLE_SECONDS = 0.02


@dataclass
class Growth:
    """Peak growth of memory."""

    rss_bytes: int = 0


class Usage:
    """Measures a process and its children.

    :param pid: of the process
    """

    def __init__(self, pid: int) -> None:
        root = psutil.Process(pid)
        self._processes = [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far."""
        times = [process.cpu_times() for process in self._processes]
        return float(sum(each.user + each.system for each in times))

    def rss_bytes(self) -> int:
        """Return the memory in use."""
        return int(sum(process.memory_info().rss for process in self._processes))

    @contextmanager
    def growth(self) -> Iterator[Growth]:
        """Measure the growth of memory in the block; the result is set at its end."""
        grown, before, is_over = Growth(), self.rss_bytes(), threading.Event()

        def watch() -> None:
            while not is_over.wait(_SAMPLE_SECONDS):
                grown.rss_bytes = max(grown.rss_bytes, self.rss_bytes() - before)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield grown
        finally:
            is_over.set()
            thread.join()
