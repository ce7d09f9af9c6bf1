# SPDX-License-Identifier: Apache-2.0
"""Operations of another deployment: an Airflow with this package, or a webda server."""

from __future__ import annotations

import os
import random
import time
import uuid as uuid_module
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, overload
from urllib.parse import urljoin

from airflow.sdk import BaseHook

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_access import (
    Access,
    Answer,
    Call,
    Kind,
    Target,
    look_call,
    look_of,
    parsed,
    quoted,
    read,
    refusal,
    stopping,
)
from airflow_asyncaction.hooks.remote_models import (
    Look,
    Position,
    RemoteAction,
    RemoteFile,
    RemoteLogs,
    RemoteOperation,
    Watch,
)
from airflow_asyncaction.hooks.remote_session import RemoteSession
from airflow_asyncaction.protocol.actions import iso_time

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

PATIENCE = timedelta(minutes=1)
"""How long another deployment may be away before a request is given up."""


class AsyncActionHook(BaseHook):
    """HTTP client to the operations and actions of another deployment.

    Purpose: what its users do, from here: list, launch, schedule, watch and stop operations, and fetch their
    logs, results and files. It may do what the connection's user may.

    How it works: ``host`` of the connection is the hook's URL there; with ``login`` and ``password`` a token
    is fetched from that Airflow, and fetched again once it is refused. A request whose answer was lost is
    sent again: a launch under one ``Idempotency-Key``, which gives the same action.

    What it does not do: follow a redirect with the token; belong to more than one thread (see :meth:`clone`).
    A webda server (``kind``) lists and launches operations, but does not tell which action it has launched,
    and knows no keys: a lost answer is an error there. It has :meth:`get`, :meth:`logs`, :meth:`wait` if the
    application exposes its store of actions as ``actions`` below that URL, and nothing of :meth:`list`,
    :meth:`stop`, :meth:`files`, :meth:`download`.

    :param asyncaction_conn_id: a connection of type ``asyncaction``
    :param patience: how long the other deployment may be away before a request fails
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
        """Return another one, for another thread. It needs nothing of Airflow."""
        twin = AsyncActionHook(
            self.asyncaction_conn_id, patience=self.patience if patience is None else patience
        )
        twin._session = RemoteSession(self.session.access)
        return twin

    @property
    def session(self) -> RemoteSession:
        """Where, as whom and over which connections it calls.

        :raises ValueError: the connection makes no sense
        """
        if self._session is None:
            connection = self.get_connection(self.asyncaction_conn_id)
            try:
                target = Target.of(connection, connection.extra_dejson)
            except ValueError as error:
                raise ValueError(f"Connection {self.asyncaction_conn_id}: {error}") from None
            self._session = RemoteSession(Access(target))
        return self._session

    @property
    def kind(self) -> Kind:
        """What serves the routes there."""
        return self.session.access.target.kind

    def test_connection(self) -> tuple[bool, str]:
        """Tell whether the connection works, and what it is for."""
        try:
            ids = self.clone(patience=timedelta(0)).operations()
        except (ServerError, ValueError) as error:
            return False, str(error)
        return True, f"{len(ids)} operations may be launched: {', '.join(sorted(ids)[:10]) or 'none'}"

    @overload
    def operations(self, full: Literal[False] = False) -> Sequence[str]: ...
    @overload
    def operations(self, full: Literal[True]) -> Mapping[str, RemoteOperation]: ...

    def operations(self, full: bool = False) -> Sequence[str] | Mapping[str, RemoteOperation]:
        """Return the ids of the operations that may be launched; or, in full, those with their schemas.

        :raises ServerError: the server refuses
        """
        is_webda = self.kind is Kind.WEBDA
        # webda's routes are found only with their whole query, be it empty.
        query = {"full": "true" if full else "" if is_webda else None}
        call = self.session.access.call("GET", "" if is_webda else "/", query=query)
        answer = self._ask(call)
        if full:
            return parsed(call, answer, _operations)
        return parsed(call, answer, lambda ids: [str(id_) for id_ in ids])

    def launch(
        self,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        schedule: datetime | int | str | None = None,
        idempotency_key: str | None = None,
    ) -> RemoteAction:
        """Launch an operation, and return its action at once: QUEUED, or SCHEDULED.

        :param arguments: JSON-able
        :param schedule: when it is to run: an aware time, ISO 8601 text, or ms since 1970
        :param idempotency_key: the same key gives the same action; a new one unless given
        :raises ServerError: the server refuses: the arguments are not as its schema says, for example
        :raises ValueError: ``schedule`` is no time, or has no time zone
        """
        due_ms = as_unix_ms(schedule)
        call = self.session.access.call(
            "PUT",
            quoted(operation),
            query={"schedule": "" if due_ms is None and self.kind is Kind.WEBDA else due_ms},
            fields={} if arguments is None else dict(arguments),
            headers={"Idempotency-Key": idempotency_key or str(uuid_module.uuid4())},
        )
        if self.kind is not Kind.WEBDA:
            return parsed(call, self._ask(call), RemoteAction.from_json)
        state = "QUEUED" if schedule is None else "SCHEDULED"
        said = read(call, self._ask(call, timedelta(0)))
        known = said if isinstance(said, dict) else {}
        return RemoteAction.from_json({"uuid": "", "type": operation, "status": state, **known})

    def get(self, uuid: str) -> RemoteAction:
        """Return an action as it stands, with its results.

        :raises ServerError: the server refuses
        """
        call = self.session.access.call("GET", quoted("actions", uuid))
        return parsed(call, self._ask(call), RemoteAction.from_json)

    def look(self, uuid: str, position: Position) -> Look:
        """Return what is new of an action since a former look. It asks once: there is a next look.

        :raises ServerError: the server refuses, or is away
        """
        return self._look(uuid, position, timedelta(0))

    def logs(self, uuid: str, after: int = 0) -> RemoteLogs:
        """Return log lines after the given one; not all if there are many (``has_more``).

        :raises ServerError: the server refuses
        """
        if self.kind is Kind.WEBDA:
            return RemoteLogs.from_list(self.get(uuid).fields.get("logs"), after=after)
        call = self.session.access.call("GET", quoted("actions", uuid, "logs"), query={"after": after})
        return parsed(call, self._ask(call), lambda fields: RemoteLogs.from_json(fields, after=after))

    def files(self, uuid: str) -> Sequence[RemoteFile]:
        """Return the inputs and outputs of an action.

        :raises ServerError: the server refuses
        """
        self._need_airflow("files")
        call = self.session.access.call("GET", quoted("actions", uuid, "files"))
        return parsed(call, self._ask(call), _files)

    def download(self, uuid: str, property_: str, index: int, path: str | os.PathLike[str]) -> RemoteFile:
        """Write the content of a file to ``path``, which is there only once the content is verified.

        :raises ServerError: the server refuses; ``no_such_file``
        """
        found = [file for file in self.files(uuid) if (file.property, file.index) == (property_, index)]
        if not found:
            raise ServerError(f"{uuid} has no file {property_}/{index}", status=404, code="no_such_file")
        call = self.session.access.call("GET", quoted("actions", uuid, "files", property_, index))
        answer = self._ask(call)
        location = answer.headers.get("location")
        if answer.status not in _REDIRECTS or location is None:
            raise refusal(call, answer)
        self.session.fetch(urljoin(call.url, location), found[0], Path(path), self.patience)
        return found[0]

    def stop(self, uuid: str) -> RemoteAction:
        """Ask an action to stop, and return it; one that has ended is left as it is.

        If it has failed, the next try is prevented, or asked to stop and returned if it is there already.

        :raises ServerError: the server refuses
        """
        self._need_airflow("stop")
        flow = stopping(self.session.access, uuid)
        call = next(flow)
        while True:
            answer = self._ask(call)
            try:
                call = flow.send(answer)
            except StopIteration as end:
                stopped: RemoteAction = end.value
                return stopped

    def wait(
        self,
        uuid: str,
        *,
        timeout: timedelta | None = None,
        poll_interval: timedelta = timedelta(seconds=2),
    ) -> RemoteAction:
        """Wait until an action is done, and return it, however it ended.

        If its task there is tried again, the last try's action is returned.

        :param timeout: for ever unless given
        :raises TimeoutError: it is not done in time; it goes on
        :raises ServerError: the server refuses
        """
        give_up_at = None if timeout is None else time.monotonic() + timeout.total_seconds()
        watch = Watch(action_id=uuid)
        while True:
            look = self._look(watch.action_id, watch.position, self.patience)
            if look.is_last:
                return self.get(watch.action_id)
            watch = watch.after(look)
            if give_up_at is not None and time.monotonic() >= give_up_at:
                raise TimeoutError(f"Action {watch.action_id} is not done after {timeout}")
            if not look.has_more:
                time.sleep(poll_interval.total_seconds() * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    def list(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the word of the protocol
        status: str | Sequence[str] | None = None,
        dag: str | None = None,
        run: str | None = None,
        task: str | None = None,
        map_index: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int = 50,
    ) -> Iterator[RemoteAction]:
        """Iterate over actions, the newest first; pages are fetched as they are needed.

        The actions are short: :meth:`get` has their arguments and results.

        :param status: one, or any of these
        :raises ServerError: the server refuses
        """
        self._need_airflow("list")
        asked: dict[str, Any] = {
            "type": type,
            "status": status,
            "dag": dag,
            "run": run,
            "task": task,
            "mapIndex": map_index,
            "since": _iso(since),
            "until": _iso(until),
            "limit": page_size,
        }
        while True:
            call = self.session.access.call("GET", "/actions", query=asked)
            actions, asked["cursor"] = parsed(call, self._ask(call), _page)
            yield from actions
            if not asked["cursor"]:
                return

    def _look(self, uuid: str, position: Position, patience: timedelta) -> Look:
        call = look_call(self.session.access, uuid, position)
        return look_of(self.session.access, call, self._ask(call, patience), position)

    def _ask(self, call: Call, patience: timedelta | None = None) -> Answer:
        return self.session.ask(call, self.patience if patience is None else patience)

    def _need_airflow(self, what: str) -> None:
        if self.kind is Kind.WEBDA:
            raise ServerError(f"A webda server has no route for {what}", status=404, code="not_offered")


def as_unix_ms(schedule: datetime | int | str | None) -> int | None:
    """Return a time as ms since 1970.

    :raises ValueError: it is none, or has no time zone
    """
    if schedule is None or isinstance(schedule, int):
        return schedule
    if isinstance(schedule, str):
        if schedule.strip().isdecimal():
            return int(schedule)
        schedule = datetime.fromisoformat(schedule.strip())
    if schedule.tzinfo is None:
        raise ValueError(f"schedule is {schedule.isoformat()}: it needs a time zone")
    return int(schedule.timestamp() * 1000)


def _operations(value: Mapping[str, Any]) -> Mapping[str, RemoteOperation]:
    if isinstance(value.get("operations"), Mapping) and "schemas" in value:  # webda names its schemas
        schemas = value["schemas"]
        value = {
            id_: {**fields, **{side: schemas.get(fields.get(side)) for side in ("input", "output")}}
            for id_, fields in value["operations"].items()
        }
    return {id_: RemoteOperation.from_json(id_, fields) for id_, fields in value.items()}


def _files(fields: Mapping[str, Any]) -> Sequence[RemoteFile]:
    return [RemoteFile.from_json(file) for file in fields["files"]]


def _page(fields: Mapping[str, Any]) -> tuple[Sequence[RemoteAction], str | None]:
    """Return the actions of a page, and where the next one begins."""
    return [RemoteAction.from_json(action) for action in fields["actions"]], fields.get("nextCursor")


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} needs a time zone")
    return iso_time(moment)
