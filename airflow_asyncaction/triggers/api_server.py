# SPDX-License-Identifier: Apache-2.0
"""Server: sends the requests of all triggers of a process to the API server, from a few threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from airflow_asyncaction.hooks.in_process import hook_url
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.retrying import LONGEST_PAUSE_SECONDS, async_retrying

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 4


class Server:
    """Client of the API server for triggers, on behalf of one task instance per request.

    Thousands of triggers share a few connections. A trigger that waits between two attempts holds no thread.

    :param base_url: of the job routes
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncaction-tell")
        self._local = threading.local()

    async def ask(self, call: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return the result of a call of the hook.

        :param call: called in a thread; it must not retry
        :raises ServerError: the server refuses, or cannot be reached
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, call, ti_id)

    async def ask_for_ever(self, call: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return the result of a call of the hook, after outages of any length.

        :raises ServerError: the server refuses
        """
        retrying = async_retrying(None, log.warning, longest_seconds=LONGEST_PAUSE_SECONDS)
        return await retrying(self.ask, call, ti_id=ti_id)

    def _call(self, call: Callable[[TaskHook], T], ti_id: str | None) -> T:
        hook = getattr(self._local, "hook", None)
        if hook is None:
            hook = self._local.hook = TaskHook(self.base_url)
        hook.ti_id = ti_id
        return call(hook)


@cache
def server() -> Server:
    """Return the client of this process."""
    return Server(hook_url())
