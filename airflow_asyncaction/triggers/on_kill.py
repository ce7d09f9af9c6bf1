# SPDX-License-Identifier: Apache-2.0
"""Cancellation shield: completes the work of a trigger's ``on_kill()``, which Airflow cancels too early."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

_killing: set[asyncio.Task[None]] = set()


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine despite cancellation, and raise what it raises.

    The triggerer cancels a trigger every second until it is gone, and its ``on_kill()`` with it. So the
    coroutine runs in a task of its own, which nobody cancels.
    """
    killing = asyncio.create_task(work)
    _killing.add(killing)
    killing.add_done_callback(_killing.discard)
    while not killing.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(killing)
    killing.result()
