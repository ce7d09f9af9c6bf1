# SPDX-License-Identifier: Apache-2.0
"""How many triggers of one process speak to the API server: from few threads, and none is blocked by it."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from http import HTTPStatus
from typing import TypeVar

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.in_process import hook_url
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.resending import may_pass

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 4
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0


class Server:
    """Asks the API server in the name of one task instance at a time.

    Purpose: thousands of triggers share a few connections. Who waits for an answer, and between two tries,
    holds no thread.

    :param base_url: of the job routes
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncaction-tell")
        self._local = threading.local()

    async def ask(self, call: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return what the server answers.

        :param call: called in a thread; it must have no patience of its own
        :raises ServerError: it refuses, or cannot be reached
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, call, ti_id)

    async def ask_for_ever(self, call: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return what the server answers, however long it is away.

        :raises ServerError: it refuses
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self.ask(call, ti_id=ti_id)
            except ServerError as error:
                if not is_away(error):
                    raise
                if pause == _FIRST_PAUSE_SECONDS:
                    log.warning("%s; trying again until it answers", error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _call(self, call: Callable[[TaskHook], T], ti_id: str | None) -> T:
        hook = getattr(self._local, "hook", None)
        if hook is None:
            hook = self._local.hook = TaskHook(self.base_url)
        hook.ti_id = ti_id
        return call(hook)


def is_away(error: ServerError) -> bool:
    """Tell whether the same request may succeed later: no answer, or none of our routes'.

    Whoever answers 413, be it a proxy, does so again.
    """
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return False
    return error.status == 0 or not error.code or may_pass(error)


@cache
def server() -> Server:
    """Return this process's own."""
    return Server(hook_url())
