# SPDX-License-Identifier: Apache-2.0
"""``on_kill()`` of triggers: runs work to completion even if Airflow cancels it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

_running: set[asyncio.Task[None]] = set()


async def run_uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to completion, however often the caller is cancelled, and propagate its exception.

    The triggerer cancels a trigger, and with it its ``on_kill()``, every second until it has ended. So the
    work runs in a separate asyncio task.
    """
    task = asyncio.create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
