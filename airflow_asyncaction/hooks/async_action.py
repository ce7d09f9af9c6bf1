# SPDX-License-Identifier: Apache-2.0
"""AsyncActionHook: HTTP client for the operations and actions of another deployment."""

from __future__ import annotations

import os
import time
import uuid as uuid_module
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from airflow.sdk import BaseHook

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_api import Exchange, RemoteApi
from airflow_asyncaction.hooks.remote_connection import DeploymentKind, RemoteConnection
from airflow_asyncaction.hooks.remote_models import (
    PollResult,
    RemoteAction,
    RemoteFile,
    RemoteLogs,
    RemoteOperation,
    Watch,
)
from airflow_asyncaction.hooks.remote_session import RemoteSession
from airflow_asyncaction.protocol.actions import iso_time
from airflow_asyncaction.retrying import jittered

T = TypeVar("T")

PATIENCE = timedelta(minutes=1)
"""How long a request is retried while the other deployment is unavailable."""

_NO_PATIENCE = timedelta(0)


class AsyncActionHook(BaseHook):
    """HTTP client for another deployment: an Airflow with this package, or a webda server.

    Purpose: list, launch, schedule, follow and stop operations there, and fetch their logs, results and
    files, with the rights of the connection's user.

    How it works: ``host`` of the connection is the base URL of the other deployment's routes. Login and
    password are exchanged for a token, which is renewed when the server refuses it. A request is resent if
    its response was lost. A launch is resent with the same ``Idempotency-Key``, so it launches one action.

    What it does not do: follow redirects with the token, or work in several threads (see :meth:`clone`).
    A webda server (extra field ``kind``) lists and launches operations, but does not return the launched
    action and ignores idempotency keys: a lost response is an error. :meth:`get`, :meth:`logs` and
    :meth:`wait` work if the application exposes its store of actions as ``actions`` below the base URL.
    :meth:`list`, :meth:`stop`, :meth:`files` and :meth:`download` do not work.

    :param asyncaction_conn_id: a connection of type ``asyncaction``
    :param patience: how long to retry a request while the other deployment is unavailable
    """

    conn_name_attr = "asyncaction_conn_id"
    default_conn_name = "asyncaction_default"
    conn_type = "asyncaction"
    hook_name = "Async Action"

    def __init__(
        self, asyncaction_conn_id: str = default_conn_name, *, patience: timedelta = PATIENCE
    ) -> None:
        super().__init__()
        self.asyncaction_conn_id = asyncaction_conn_id
        self.patience = patience
        self._session: RemoteSession | None = None

    def clone(self, *, patience: timedelta | None = None) -> AsyncActionHook:
        """Return a hook for another thread. It shares the token, and needs no access to Airflow."""
        twin = AsyncActionHook(
            self.asyncaction_conn_id, patience=self.patience if patience is None else patience
        )
        twin._session = self.session.clone()
        return twin

    @property
    def session(self) -> RemoteSession:
        """The HTTP session, opened on first use.

        :raises ValueError: the connection is invalid
        """
        if self._session is None:
            connection = self.get_connection(self.asyncaction_conn_id)
            try:
                remote = RemoteConnection.from_airflow(connection, connection.extra_dejson)
            except ValueError as error:
                raise ValueError(f"Connection {self.asyncaction_conn_id} is invalid: {error}") from None
            self._session = RemoteSession(remote)
        return self._session

    @property
    def kind(self) -> DeploymentKind:
        """Whether the other deployment is an Airflow or a webda server."""
        return self.session.connection.kind

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the connection works, and which operations its user may launch."""
        try:
            ids = self.clone(patience=_NO_PATIENCE).operations()
        except (ServerError, ValueError) as error:
            return False, str(error)
        shown = ", ".join(sorted(ids)[:10]) + (", ..." if len(ids) > 10 else "")
        return True, f"Operations that the user may launch: {len(ids)} ({shown or 'none'})"

    @overload
    def operations(self, full: Literal[False] = False) -> Sequence[str]: ...
    @overload
    def operations(self, full: Literal[True]) -> Mapping[str, RemoteOperation]: ...

    def operations(self, full: bool = False) -> Sequence[str] | Mapping[str, RemoteOperation]:
        """Return the ids of the operations that the user may launch or, with ``full``, their schemas by id.

        :raises ServerError: the server refuses
        """
        if full:
            return self._run(self._api.operations())
        return self._run(self._api.operation_ids())

    def launch(
        self,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        schedule: datetime | int | str | None = None,
        idempotency_key: str | None = None,
    ) -> RemoteAction:
        """Launch an operation, and return its action at once: QUEUED, or SCHEDULED.

        :param arguments: JSON-serializable
        :param schedule: when to run it: an aware time, ISO 8601 text, or ms since 1970
        :param idempotency_key: launches with the same key return the same action; a new one by default
        :raises ServerError: the server refuses, for example because the arguments do not match the schema
        :raises ValueError: ``schedule`` is not a time, or has no time zone
        """
        exchange = self._api.launch(
            operation,
            arguments,
            schedule_ms=as_unix_ms(schedule),
            idempotency_key=idempotency_key or str(uuid_module.uuid4()),
        )
        return self._run(exchange, _NO_PATIENCE if self.kind is DeploymentKind.WEBDA else None)

    def get(self, uuid: str) -> RemoteAction:
        """Return an action with its results.

        :raises ServerError: the server refuses
        """
        return self._run(self._api.get(uuid))

    def poll(self, watch: Watch) -> PollResult:
        """Return what is new about an action since the last poll. The request is not retried.

        :raises ServerError: the server refuses, or cannot be reached
        """
        return self._run(self._api.poll(watch), _NO_PATIENCE)

    def logs(self, uuid: str, after: int = 0) -> RemoteLogs:
        """Return one page of the log lines after line ``after``.

        :raises ServerError: the server refuses
        """
        return self._run(self._api.logs(uuid, after))

    def files(self, uuid: str) -> Sequence[RemoteFile]:
        """Return the inputs and outputs of an action.

        :raises ServerError: the server refuses
        """
        self._require_airflow("files")
        return self._run(self._api.files(uuid))

    def download(self, uuid: str, property_: str, index: int, path: str | os.PathLike[str]) -> RemoteFile:
        """Download the content of a file to ``path``, which exists only once the content is verified.

        A download that breaks off is resumed.

        :raises ServerError: the server refuses, or there is no such file (``no_such_file``)
        """
        found = [file for file in self.files(uuid) if (file.property, file.index) == (property_, index)]
        if not found:
            message = f"Action {uuid} has no file {property_}/{index}"
            raise ServerError(message, status=404, code="no_such_file")
        url = self._run(self._api.content_url(uuid, found[0]))
        self.session.download(url, found[0], Path(path), self.patience)
        return found[0]

    def stop(self, uuid: str) -> RemoteAction:
        """Ask an action to stop, and return it. This has no effect on an action that has ended.

        If it failed and would be retried, the retry is prevented, or stopped and returned if it exists.

        :raises ServerError: the server refuses
        """
        self._require_airflow("stop")
        return self._run(self._api.stop(uuid))

    def wait(
        self,
        uuid: str,
        *,
        timeout: timedelta | None = None,
        poll_interval: timedelta = timedelta(seconds=2),
    ) -> RemoteAction:
        """Wait until an action is done, and return it, however it ended.

        If its task is retried there, return the action of the last retry.

        :param timeout: default: wait without a limit
        :raises TimeoutError: the action is not done in time; it continues
        :raises ServerError: the server refuses
        """
        give_up_at = None if timeout is None else time.monotonic() + timeout.total_seconds()
        watch = Watch(action_id=uuid)
        while True:
            result = self._run(self._api.poll(watch))
            if result.is_last:
                return self.get(watch.action_id)
            watch = watch.after(result)
            if give_up_at is not None and time.monotonic() >= give_up_at:
                raise TimeoutError(f"Action {watch.action_id} is not done after {timeout}")
            if not result.has_more:
                time.sleep(jittered(poll_interval.total_seconds()))

    def list(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the protocol's name
        status: str | Sequence[str] | None = None,
        dag: str | None = None,
        run: str | None = None,
        task: str | None = None,
        map_index: int | None = None,
        iteration: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int = 50,
    ) -> Iterator[RemoteAction]:
        """Iterate over actions, newest first. Pages are fetched as needed.

        The actions have neither arguments nor results: see :meth:`get`.

        :param status: one, or any of these
        :param run: requires ``dag``, as ``task``, ``map_index`` and ``iteration`` do
        :param iteration: of the task's loop, from 0 (Airflow 3.4)
        :raises ServerError: the server refuses
        """
        self._require_airflow("list")
        query: dict[str, Any] = {
            "type": type,
            "status": status,
            "dag": dag,
            "run": run,
            "task": task,
            "mapIndex": map_index,
            "iteration": iteration,
            "since": _iso(since),
            "until": _iso(until),
            "limit": page_size,
        }
        while True:
            actions, query["cursor"] = self._run(self._api.page(query))
            yield from actions
            if not query["cursor"]:
                return

    @property
    def _api(self) -> RemoteApi:
        return self.session.api

    def _run(self, exchange: Exchange[T], patience: timedelta | None = None) -> T:
        return self.session.run(exchange, self.patience if patience is None else patience)

    def _require_airflow(self, method: str) -> None:
        if self.kind is DeploymentKind.WEBDA:
            raise ServerError(f"webda servers do not support {method}()", status=404, code="not_offered")


def as_unix_ms(schedule: datetime | int | str | None) -> int | None:
    """Return a time as ms since 1970.

    :raises ValueError: ``schedule`` is not a time, or has no time zone
    """
    if schedule is None or isinstance(schedule, int):
        return schedule
    if isinstance(schedule, str):
        if schedule.strip().isdecimal():
            return int(schedule)
        schedule = datetime.fromisoformat(schedule.strip())
    if schedule.tzinfo is None:
        raise ValueError(f"schedule {schedule.isoformat()} needs a time zone")
    return int(schedule.timestamp() * 1000)


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} needs a time zone")
    return iso_time(moment)
