# SPDX-License-Identifier: Apache-2.0
"""Long polls: hold a task's request for its action until the action changes, without a thread.

A plain poll costs the API server as much as a small report, whether or not there is news (``make bench``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_asyncaction.exceptions import SignatureError, StoreUnavailable
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.tasks import LONGEST_WAIT_SECONDS
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.versions import ActionVersion, read_versions
from airflow_asyncaction.web.asgi import mounted_path
from airflow_asyncaction.web.security import Caller, SignedRequest, parse_signed_scope

log = logging.getLogger(__name__)

_PATH = "/task/action"
_SKEW_MARGIN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class LongPollLimits:
    """Limits of long polls in an API server process. A request beyond them is answered at once.

    :param interval_seconds: time between two queries for the versions of all actions that are waited for
    :param longest_wait_seconds: longest time that a request is held; also how long the requests can delay
        the end of a server that does not show that it is shutting down
    :param per_action: requests that are held for one action: that of its task, and one that a task has left
        behind whose connection is not closed yet
    :param in_all: requests that are held by the process
    """

    interval_seconds: float = 1.0
    longest_wait_seconds: float = LONGEST_WAIT_SECONDS
    per_action: int = 2
    in_all: int = 5000


@dataclass(eq=False)
class _Poll:
    """A request that is held.

    :param version: the version of the action that the task knows
    :param is_unchanged: whether the request is authentic and the task knew the version at the last look
    """

    signed: SignedRequest
    version: str
    wait_seconds: float
    is_unchanged: bool = False
    released: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def action_id(self) -> JobId:
        return self.signed.action_id

    def release(self) -> None:
        """Pass the request on to the app."""
        if not self.released.done():
            self.released.set_result(None)

    def has_news(self, current: ActionVersion | None, now: datetime) -> bool:
        """Return whether the app must answer now: there is news for the task, or it will be refused."""
        if current is None:
            return True
        try:
            if not self.is_unchanged:
                self.signed.verify(current.credentials)
            self.is_unchanged = current.value == self.version and not current.has_expired_timeout(now)
        except Exception:  # noqa: BLE001 - a signature or a row is invalid, and the app says so
            self.is_unchanged = False
        return not self.is_unchanged


class LongPolls:
    """ASGI app in front of another one, which answers all requests with news.

    Purpose: a waiting task sends five requests per minute instead of thirty, and sees a change within a
    second.

    How it works: a request to ``GET /task/action`` with ``version`` and ``wait`` is held until the action has
    another version, or one of its timeouts expires. Only then does it take a thread and a place in its
    sender's queue. After ``wait`` seconds without a change, it is answered with 304. One query per second
    reads the versions of all actions that are waited for, and what authenticates the requests: one with an
    invalid signature is passed on.

    What it does not do: answer with an action or a refusal. It knows that the server is shutting down only if
    that is uvicorn, and then passes all requests on.

    :param app: the app that answers
    """

    def __init__(self, app: ASGIApp, database: Database, settings: Settings, limits: LongPollLimits) -> None:
        self._app = app
        self._database = database
        self._settings = settings
        self._limits = limits
        self._polls: set[_Poll] = set()
        self._held = Counter[JobId]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="asyncaction-long-polls")
        self._watcher: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        poll = self._parse(scope)
        if poll is None:
            await self._app(scope, receive, send)
            return
        messages = [await receive()]
        if _is_whole_request(messages[0]):
            with self._watched(poll):
                has_left = await _wait_or_leave(poll, receive)
            if has_left or (poll.is_unchanged and not poll.released.done()):
                # Airflow's middleware needs a response even if the client has left.
                await Response(status_code=HTTPStatus.NOT_MODIFIED)(scope, receive, send)
                return

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    def _parse(self, scope: Scope) -> _Poll | None:
        """Return a request that should be held; ``None`` for all others."""
        if scope["method"] != "GET" or b"wait=" not in scope["query_string"] or mounted_path(scope) != _PATH:
            return None
        headers = Headers(scope=scope)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        if has_body or is_shutting_down():
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        try:
            wait_seconds, version = float(query["wait"][0]), query["version"][0]
            signed = parse_signed_scope(scope, b"", self._settings, Caller.TASK)
        except (KeyError, ValueError, SignatureError):
            return None
        wait_seconds = min(wait_seconds, self._limits.longest_wait_seconds, self._seconds_valid(signed))
        is_full = (
            len(self._polls) >= self._limits.in_all or self._held[signed.action_id] >= self._limits.per_action
        )
        return None if is_full or not wait_seconds > 0 else _Poll(signed, version, wait_seconds)

    def _seconds_valid(self, signed: SignedRequest) -> float:
        """Return for how long the request may be held: its time must still be valid for the app."""
        age_seconds = (unix_ms(signed.now) - signed.claim.time_ms) / 1000
        return self._settings.max_clock_skew.total_seconds() - age_seconds - _SKEW_MARGIN_SECONDS

    @contextmanager
    def _watched(self, poll: _Poll) -> Iterator[None]:
        """Watch the action of a request."""
        self._polls.add(poll)
        self._held[poll.action_id] += 1
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._polls.discard(poll)
            self._held[poll.action_id] -= 1
            if not self._held[poll.action_id]:
                del self._held[poll.action_id]

    async def _watch(self) -> None:
        """Release requests that must be answered, as long as any are held."""
        loop = asyncio.get_running_loop()
        while self._polls:
            polls = list(self._polls)
            if is_shutting_down():
                released: Collection[_Poll] = polls
            else:
                released = await loop.run_in_executor(self._thread, self._find_released, polls)
            for poll in released:
                poll.release()
            await asyncio.sleep(self._limits.interval_seconds)

    def _find_released(self, polls: Sequence[_Poll]) -> Collection[_Poll]:
        """Return the requests that the app must answer now.

        If the versions cannot be read, the app answers all requests once they have waited, and so not all at
        the same moment.
        """
        try:
            versions = read_versions(self._database, {poll.action_id for poll in polls})
        except Exception as error:
            if not isinstance(error, StoreUnavailable):  # of which the app tells the tasks
                log.exception("The versions of %d actions could not be read; retrying", len(polls))
            for poll in polls:
                poll.is_unchanged = False
            return ()
        now = datetime.now(UTC)
        return [poll for poll in polls if poll.has_news(versions.get(poll.action_id), now)]


def _is_whole_request(message: Message) -> bool:
    """Return whether a message is a request without a body, so that the client can only leave after it."""
    return message["type"] == "http.request" and not message.get("body") and not message.get("more_body")


async def _wait_or_leave(poll: _Poll, receive: Receive) -> bool:
    """Wait until a request is released or its time is over. Return whether the client left before that."""
    left = asyncio.ensure_future(receive())
    try:
        await asyncio.wait(
            (left, poll.released), timeout=poll.wait_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        return left.done()
    finally:
        if left.cancel():
            await asyncio.wait((left,))


def is_shutting_down() -> bool:
    """Return whether this process is a uvicorn server that was told to stop.

    ASGI tells an app only once all requests have been answered.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True
