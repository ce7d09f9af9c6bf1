# SPDX-License-Identifier: Apache-2.0
"""What a trigger does in ``on_kill()``, to its end: it takes longer than Airflow lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

_killing: set[asyncio.Task[None]] = set()


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for some work, whoever cancels it, and raise what it raises.

    The triggerer cancels a trigger anew each second until it is gone, its ``on_kill()`` with it. So the work
    is done by a task of its own, which is cancelled by nobody.
    """
    killing = asyncio.create_task(work)
    _killing.add(killing)
    killing.add_done_callback(_killing.discard)
    while not killing.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(killing)
    killing.result()
