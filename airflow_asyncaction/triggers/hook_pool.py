# SPDX-License-Identifier: Apache-2.0
"""Hook pool: API server clients that the triggers of a process share, in a few threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from airflow_asyncaction.hooks.in_process import task_url
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.retrying import LONGEST_PAUSE_SECONDS, async_retrying

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 4


class TaskHookPool:
    """Sends requests to the API server, each on behalf of one task instance.

    Purpose: thousands of triggers share a few connections. A request that waits to be retried occupies no
    thread.

    :param base_url: base URL of the task routes
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncaction-hook")
        self._local = threading.local()

    async def call(self, send: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return the result of one request.

        :param send: called in a thread; it must call the hook with no patience
        :raises ServerError: the server refused it, or cannot be reached
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, send, ti_id)

    async def call_until_answered(self, send: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return the result of a request; retry it while the server is unavailable.

        :raises ServerError: the server refused it
        """
        retrying = async_retrying(None, log.warning, longest_seconds=LONGEST_PAUSE_SECONDS)
        return await retrying(self.call, send, ti_id=ti_id)

    def _call(self, send: Callable[[TaskHook], T], ti_id: str | None) -> T:
        hook = getattr(self._local, "hook", None)
        if hook is None:
            hook = self._local.hook = TaskHook(self.base_url)
        hook.ti_id = ti_id
        return send(hook)


@cache
def get_hook_pool() -> TaskHookPool:
    """Return the pool of this process."""
    return TaskHookPool(task_url())
