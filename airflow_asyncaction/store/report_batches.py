# SPDX-License-Identifier: Apache-2.0
"""Report batches: write the ordinary reports of several actions in one statement and one commit.

Purpose: a report must not cost a thread, five round trips and a commit of its own.

How it works: reports wait in a queue while a writer waits for the database. A writer then takes one report of
each action, decides what it changes from the action as this process knows it, and writes all of them. The
statement skips an action that has changed since then. A report is answered after its commit.

What it does not do: refuse a report, end an action, drop log lines, delete old reports, or run on SQLite and
MySQL. Whoever submits a report that was not written applies it with a lock (:meth:`Actions.apply_report`).
That is also safe if it is unknown whether a batch was committed: the report then counts as resent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_asyncaction.airflow_internals.server import async_database
from airflow_asyncaction.airflow_internals.server.async_database import OpenConnection
from airflow_asyncaction.protocol.actions import Action
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.known_actions import (
    KnownAction,
    KnownActions,
    OrdinaryReport,
    Submission,
    judge,
)
from airflow_asyncaction.store.report_statement import READ, WRITE, parameters

log = logging.getLogger(__name__)

_WRITERS = 2
"""Connections per process: one batch is prepared while another waits for its commit."""
_MAX_BATCH = 128
_MAX_BATCH_BYTES = 128 * 1024  # is parsed on the event loop without a pause
_ATTEMPTS = 2  # the second one with a row that was read again
_STATEMENT_SECONDS = 15.0
_CONNECT_SECONDS = 10.0
_RETRY_SECONDS = 10.0
_IDLE_SECONDS = 300.0
_USABLE_AFTER = ("22", "23", "40", "55")
"""Classes of SQLSTATEs after which a connection remains usable: data, constraints, conflicts and locks."""


@dataclass(eq=False)
class _Queued:
    """A report that waits to be written.

    :param done: the action after the report; ``None`` if it was not written
    :param attempts: number of batches that contained it
    :param is_taken: whether a batch contains it now
    """

    submission: Submission
    done: asyncio.Future[Action | None]
    attempts: int = 0
    is_taken: bool = False

    def settle(self, action: Action | None) -> None:
        if not self.done.done():
            self.done.set_result(action)


@dataclass(eq=False)
class _Batch:
    """Reports of different actions, and what each of them writes."""

    queued: Sequence[_Queued]
    judged: list[tuple[_Queued, KnownAction, OrdinaryReport]] = field(default_factory=list)


class ReportBatches:
    """Writes ordinary reports in batches. All methods run in one event loop.

    Connections are opened in the background, and closed after five minutes without reports. Until one is
    open, no report is queued.

    :param max_log_bytes: maximum size of the log lines of one action
    :param max_age_seconds: age after which connections are replaced; negative if they are not
    """

    def __init__(self, *, max_log_bytes: int, max_age_seconds: float) -> None:
        self._max_log_bytes = max_log_bytes
        self._max_age_seconds = max_age_seconds
        self._known = KnownActions()
        self._queue: deque[_Queued] = deque()
        self._busy: set[JobId] = set()
        self._writers: set[asyncio.Task[None]] = set()
        self._connected = self._idle = 0
        self._retry_at = 0.0
        self._has_failed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self.written = 0
        """Number of reports written so far."""

    @property
    def is_connected(self) -> bool:
        """Whether reports can be written."""
        return self._connected > 0

    async def apply(self, submission: Submission) -> Action | None:
        """Apply a report, and return the action after it, with unmasked arguments, for its job.

        :returns: ``None`` if the report was not written, or if it is unknown whether it was
        """
        self._start_writer()
        if not self._connected:
            return None
        queued = _Queued(submission, asyncio.get_running_loop().create_future())
        self._queue.append(queued)
        self._wake.set()
        return await queued.done

    def _start_writer(self) -> None:
        """Start a writer if all are busy, and there may be more."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the connections of another loop ended with it
            self._loop, self._wake = loop, asyncio.Event()
            self._writers, self._busy, self._connected, self._idle = set(), set(), 0, 0
            self._queue.clear()
        is_connecting = len(self._writers) > self._connected
        if self._idle or is_connecting or len(self._writers) >= _WRITERS or loop.time() < self._retry_at:
            return
        writer = loop.create_task(self._write_batches(), name="asyncaction-reports")
        self._writers.add(writer)
        writer.add_done_callback(self._writers.discard)

    async def _write_batches(self) -> None:
        """Write batches over one connection until it is idle, old or broken."""
        writer = await self._open_writer()
        if writer is None:
            return
        try:
            await self._serve(writer)
        except Exception as error:  # noqa: BLE001 - of asyncpg, or of the network
            self._retry_at = asyncio.get_running_loop().time() + _RETRY_SECONDS
            log.warning(
                "Reports of jobs are written one by one for a moment: a connection to the metadata database"
                " was lost (%s)",
                type(error).__name__,
            )
        finally:
            await writer.close()

    async def _open_writer(self) -> _Writer | None:
        """Connect to the database. Log failures once, until it has succeeded."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                writer = await _Writer.on(await async_database.connect())
        except Exception as error:  # noqa: BLE001 - of SQLAlchemy, asyncpg, or the deployment's settings
            self._retry_at = asyncio.get_running_loop().time() + _RETRY_SECONDS
            if not self._has_failed:
                self._has_failed = True
                log.warning(
                    "Reports of jobs are written one by one: asyncpg cannot connect to the metadata database"
                    " (%s: %s). Check [database] sql_alchemy_conn_async",
                    type(error).__name__,
                    error,
                )
            return None
        self._has_failed = False
        return writer

    async def _serve(self, writer: _Writer) -> None:
        loop = asyncio.get_running_loop()
        opened_at = loop.time()
        self._connected += 1
        try:
            while not 0 <= self._max_age_seconds < loop.time() - opened_at:
                batch = self._take()
                if batch is not None:
                    await self._write(writer, batch)
                elif not await self._wait():
                    return
        finally:
            self._connected -= 1
            if not self._connected:
                for queued in self._queue:
                    queued.settle(None)
                self._queue.clear()

    async def _wait(self) -> bool:
        """Wait for reports. Return whether there may be some."""
        self._wake.clear()
        self._idle += 1
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return False
        finally:
            self._idle -= 1
        return True

    def _take(self) -> _Batch | None:
        """Take the first report of each action that no other batch contains."""
        taken: list[_Queued] = []
        left: deque[_Queued] = deque()
        size_bytes = 0
        for queued in self._queue:
            action_id = queued.submission.action_id
            if queued.done.done():  # the client has left
                continue
            is_full = len(taken) == _MAX_BATCH or size_bytes > _MAX_BATCH_BYTES
            if action_id in self._busy or is_full:
                left.append(queued)
            else:
                size_bytes += len(queued.submission.envelope.body)
                self._busy.add(action_id)
                queued.is_taken = True
                taken.append(queued)
        self._queue = left
        return _Batch(taken) if taken else None

    async def _write(self, writer: _Writer, batch: _Batch) -> None:
        """Write a batch. If it fails, its reports are not answered from here.

        :raises Exception: the connection is not usable any more
        """
        try:
            fresh = await self._read(writer, batch)
            self._judge(batch, fresh)
            await self._execute(writer, batch)
        except Exception as error:
            if not _is_usable_after(error):
                raise
            # Without the message, which may contain a job's data.
            log.warning("A batch of reports failed (%s). They are written one by one.", type(error).__name__)
        finally:
            for queued in batch.queued:
                action_id = queued.submission.action_id
                self._busy.discard(action_id)
                if queued.is_taken and not queued.done.done():
                    self._known.forget(action_id)
                    queued.settle(None)
            if self._queue:
                self._wake.set()

    async def _read(self, writer: _Writer, batch: _Batch) -> dict[JobId, KnownAction]:
        """Read the actions of a batch that are not known."""
        missing = [
            queued.submission.action_id
            for queued in batch.queued
            if self._known.find(queued.submission.action_id) is None
        ]
        fresh: dict[JobId, KnownAction] = {}
        for record in await writer.read(missing) if missing else ():
            known = _known(record)
            if known is not None:
                fresh[known.action.id] = known
        return fresh

    def _judge(self, batch: _Batch, fresh: dict[JobId, KnownAction]) -> None:
        """Find the ordinary reports of a batch."""
        for queued in batch.queued:
            action_id = queued.submission.action_id
            known = self._known.find(action_id) or fresh.get(action_id)
            if known is None:
                continue
            try:
                ordinary = judge(known, queued.submission, max_log_bytes=self._max_log_bytes)
            except Exception:  # noqa: BLE001 - the other way refuses it, and says why
                queued.settle(None)  # a stranger's request does not remove the action from the cache
                continue
            if ordinary is not None:
                batch.judged.append((queued, known, ordinary))

    async def _execute(self, writer: _Writer, batch: _Batch) -> None:
        if not batch.judged:
            return
        written = await writer.write(parameters([ordinary.row for _, _, ordinary in batch.judged]))
        for queued, known, ordinary in batch.judged:
            action_id = queued.submission.action_id
            if action_id in written:
                self._known.put(action_id, known.after(ordinary))
                self.written += 1
                queued.settle(known.for_job(ordinary.action))
            elif queued.attempts + 1 < _ATTEMPTS:
                queued.attempts, queued.is_taken = queued.attempts + 1, False
                self._known.forget(action_id)
                self._queue.appendleft(queued)


class _Writer:
    """Executes the two statements over one connection."""

    def __init__(self, connection: OpenConnection) -> None:
        self._connection = connection
        self._driver = connection.driver
        self._is_direct = connection.is_direct
        self._prepared: dict[str, Any] = {}

    @classmethod
    async def on(cls, connection: OpenConnection) -> _Writer:
        """Return a writer. Its statements are prepared on the server, unless a pooler may change it."""
        writer = cls(connection)
        try:
            if connection.is_direct:
                for name, query in (("asyncaction_read", READ), ("asyncaction_write", WRITE)):
                    writer._prepared[query] = await connection.driver.prepare(query, name=name)
        except BaseException:
            await writer.close()
            raise
        return writer

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def read(self, action_ids: Sequence[JobId]) -> list[Any]:
        """Read actions."""
        return await self._fetch(READ, action_ids)

    async def write(self, arrays: Sequence[Sequence[Any]]) -> set[str]:
        """Write reports and commit. Return the ids of the actions whose report was written."""
        return {str(record[0]) for record in await self._fetch(WRITE, *arrays)}

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        if self._is_direct:
            rows: list[Any] = await self._prepared[query].fetch(*arguments, timeout=_STATEMENT_SECONDS)
            return rows
        async with self._driver.transaction():  # all round trips of a statement reach the same server
            return await self._driver.fetch(query, *arguments, timeout=_STATEMENT_SECONDS)


def _is_usable_after(error: Exception) -> bool:
    """Return whether a connection remains usable after an error."""
    is_unsent = isinstance(error, ValueError)  # asyncpg could not encode a parameter
    return is_unsent or str(getattr(error, "sqlstate", ""))[:2] in _USABLE_AFTER


def _known(record: Any) -> KnownAction | None:
    try:
        return KnownAction.of(record)
    except Exception:  # noqa: BLE001 - the other way reports it
        return None


def open_batches(*, max_log_bytes: int) -> ReportBatches | None:
    """Return the batches of this process; ``None`` if the database is not PostgreSQL with asyncpg."""
    reason = async_database.find_unsupported()
    if reason is not None:
        log.info("Reports of jobs are written one by one: %s", reason)
        return None
    return ReportBatches(max_log_bytes=max_log_bytes, max_age_seconds=async_database.max_age_seconds())
