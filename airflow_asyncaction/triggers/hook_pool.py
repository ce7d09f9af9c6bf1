# SPDX-License-Identifier: Apache-2.0
"""Pool of API server clients that the triggers of a process share: a few threads, none of them blocked."""

from __future__ import annotations

import asyncio
import logging
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
from airflow_asyncaction.runners.pods.backoff import ExponentialBackoff

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 4
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0


class TaskHookPool:
    """Sends requests to the API server, each on behalf of one task instance.

    Purpose: thousands of triggers share a few connections. A request that waits to be retried holds no
    thread.

    :param base_url: of the job routes
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncaction-hook")
        self._local = threading.local()

    async def call(self, send: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return the result of one request.

        :param send: called in a thread; its own patience must be zero
        :raises ServerError: the server refused it, or cannot be reached
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, send, ti_id)

    async def call_until_answered(self, send: Callable[[TaskHook], T], *, ti_id: str | None = None) -> T:
        """Return the result of a request; retry it for as long as the server is unavailable.

        :raises ServerError: the server refused it
        """
        backoff = ExponentialBackoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, jitter=True)
        while True:
            try:
                return await self.call(send, ti_id=ti_id)
            except ServerError as error:
                if not is_transient(error):
                    raise
                if backoff.is_fresh:
                    log.warning("%s; retrying until it answers", error)
            await asyncio.sleep(backoff.next_pause())

    def _call(self, send: Callable[[TaskHook], T], ti_id: str | None) -> T:
        hook = getattr(self._local, "hook", None)
        if hook is None:
            hook = self._local.hook = TaskHook(self.base_url)
        hook.ti_id = ti_id
        return send(hook)


def is_transient(error: ServerError) -> bool:
    """Tell whether the same request may succeed later: nothing answered, or none of our routes did.

    413 is final, even if a proxy sent it.
    """
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return False
    return error.status == 0 or not error.code or may_pass(error)


@cache
def get_hook_pool() -> TaskHookPool:
    """Return the pool of this process."""
    return TaskHookPool(hook_url())
