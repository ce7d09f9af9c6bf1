# SPDX-License-Identifier: Apache-2.0
"""How another deployment is spoken to: what is sent, and what its answers mean. Touches no socket."""

from __future__ import annotations

import base64
import json
import math
import ssl
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable
from airflow_asyncaction.hooks.remote_models import Look, Position, RemoteAction, RemoteLogs
from airflow_asyncaction.hooks.resending import is_hang_up
from airflow_asyncaction.protocol.reports import Limits

T = TypeVar("T")

UNVERIFIED = "unverified_certificate"
"""Code of the error that no answer came, since the other deployment's certificate cannot be verified."""

_OK = range(200, 300)
_UNAUTHORIZED = 401
_CONFLICT = 409
_NOT_MODIFIED = 304
_FAILED = 500  # and above: the server has, or what stands before it
_WHERE = "is it the URL of the hook, such as https://airflow.example.org/async?"
# For servers that give no reason, as webda's.
_QUESTIONS = {
    400: "are the arguments as the operation's schema says?",
    403: "may the connection's user do that?",
    404: f"is there such an operation or action; and {_WHERE}",
}
_TRUE, _FALSE = ("true", "1", "yes", "on", ""), ("false", "0", "no", "off")


class Kind(StrEnum):
    """What serves the routes there."""

    AIRFLOW = "airflow"  # this package, in another Airflow
    WEBDA = "webda"  # webda's AsyncJobService


_PATHS = {Kind.AIRFLOW: "/async", Kind.WEBDA: "/async/jobs"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A connection of type ``asyncaction``, read.

    :param base_url: of the routes, without a trailing slash
    :param airflow_url: where ``/auth/token`` is
    :param token: a bearer token to be used as it is
    :param verify: whether certificates are verified; or the path of a file or folder with those of the
        authorities
    """

    base_url: str
    airflow_url: str
    kind: Kind = Kind.AIRFLOW
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    verify: bool | str = True
    timeout_seconds: float = 30.0

    @classmethod
    def of(cls, connection: Any, extra: Mapping[str, Any]) -> Target:
        """Read Airflow's connection.

        :param extra: its extra, which is read in one way by workers and in another by triggers
        :raises ValueError: a field makes no sense
        """
        kind = _kind(extra.get("kind"))
        base_url = _base_url(connection, kind)
        return cls(
            base_url=base_url,
            airflow_url=str(extra.get("airflow_url") or base_url.rpartition("/")[0]).rstrip("/"),
            kind=kind,
            login=connection.login or None,
            password=connection.password,
            token=extra.get("token") or None,
            verify=_verify(extra.get("verify")),
            timeout_seconds=_seconds(extra.get("timeout")),
        )

    @property
    def signs_in(self) -> bool:
        """Whether a token is to be fetched with login and password."""
        return self.kind is Kind.AIRFLOW and self.token is None and self.login is not None


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request."""

    method: str
    url: str
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def shown_url(self) -> str:
        """The URL as it may stand in errors: without a query."""
        return self.url.partition("?")[0]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    :param headers: with names in lower case
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SignIn:
    """A token is needed: :meth:`Access.sign_in` is to be carried out, by one at a time.

    :param refused: the token that is of no use, if there was one
    """

    refused: str | None = field(repr=False)


Flow = Generator[Call | SignIn, Any, T]
"""Yields what is to be sent or done, and is given the answers."""


class Access:
    """Proves to another deployment who calls.

    Purpose: one text for requests that are sent by threads and by asyncio, as a :data:`Flow`.

    It keeps a fetched token until that is refused.

    :ivar signing_in: for threads that share it
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.token: str | None = target.token
        self.signing_in = threading.Lock()

    def call(
        self,
        method: str,
        path: str = "",
        *,
        query: Mapping[str, Any] | None = None,
        fields: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call:
        """Return a request to a route.

        :param path: below the base URL, quoted; ``""`` is that itself
        :param query: ``None`` is left out, a sequence is repeated
        :param fields: the body, to be sent as JSON
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        text = f"?{urlencode(given, doseq=True)}" if given else ""
        sent = {"Accept": "application/json", **(headers or {})}
        body = b""
        if fields is not None:
            body = json.dumps(fields, allow_nan=False).encode()
            sent["Content-Type"] = "application/json"
        return Call(method=method, url=f"{self.target.base_url}{path}{text}", body=body, headers=sent)

    def exchange(self, call: Call) -> Flow[Answer]:
        """Return the answer to a request, signed in anew if the token was refused.

        :raises ServerError: signing in failed
        """
        if self.target.signs_in and self.token is None:
            yield SignIn(refused=None)
        used = self.token
        answer: Answer = yield self._authorized(call)
        if answer.status != _UNAUTHORIZED or not self.target.signs_in:
            return answer
        yield SignIn(refused=used)
        answer = yield self._authorized(call)
        return answer

    def sign_in(self, asked: SignIn) -> Flow[bool]:
        """Fetch a token, and return whether that was needed: somebody else may have fetched one meanwhile.

        :raises ServerError: none came
        """
        if self.token != asked.refused:
            return False
        body = json.dumps({"username": self.target.login, "password": self.target.password or ""})
        call = Call(
            method="POST",
            url=f"{self.target.airflow_url}/auth/token",
            body=body.encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        answer: Answer = yield call
        fields = _json(answer)
        token = fields.get("access_token") if isinstance(fields, dict) else None
        if answer.status in _OK and isinstance(token, str):
            self.token = token
            return True
        # 5xx and the like may pass; a refusal stays one.
        code = "not_signed_in" if answer.status in (400, 401, 403, 422) else ""
        what = "login and password of the connection are refused" if code else "no token came"
        raise ServerError(
            f"{call.shown_url} answered {answer.status}: {what}", status=answer.status, code=code
        )

    def _authorized(self, call: Call) -> Call:
        target = self.target
        if self.token is not None:
            value = f"Bearer {self.token}"
        elif target.kind is Kind.WEBDA and target.login is not None:
            pair = f"{target.login}:{target.password or ''}"
            value = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            return call
        return replace(call, headers={**call.headers, "Authorization": value})


def stopping(access: Access, uuid: str) -> Generator[Call, Answer, RemoteAction]:
    """Ask an action to stop; if it has ended and another try follows, that. Return the one it came to.

    :raises ServerError: the server refuses
    """
    while True:
        call = access.call("PUT", quoted("actions", uuid, "stop"))
        answer = yield call
        if answer.status != _CONFLICT or refusal(call, answer).code != "already_ended":
            return parsed(call, answer, RemoteAction.from_json)
        call = access.call("GET", quoted("actions", uuid))
        action = parsed(call, (yield call), RemoteAction.from_json)
        if action.next_attempt is None:
            return action
        uuid = action.next_attempt


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL.

    :raises ValueError: it is none
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def unreachable(call: Call, error: Exception) -> ServerError:
    """Return the error that it is if a request has failed with one of a library.

    It must not be raised "from" that: which has the request, and that the token.
    """
    problem = _certificate_problem(error)
    place = origin_of(call.url)
    if problem is None and len(call.body) > Limits().body_bytes and is_hang_up(error):
        said = f"{place} closed the connection while {len(call.body)} bytes were sent: they may be too many"
        return ServerError(said, status=413, code="too_large")
    if problem is None:
        return ServerUnreachable(f"{place} cannot be reached ({type(error).__name__})")
    known = "verify of the connection, or REQUESTS_CA_BUNDLE, names the authorities' certificates"
    return ServerError(f"The certificate of {place} cannot be verified ({problem}): {known}", code=UNVERIFIED)


def _certificate_problem(error: BaseException | None) -> str | None:
    """Return why a certificate was not accepted, if that is below an error."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        wrapped = (value for value in error.args if isinstance(value, BaseException))
        error = next(wrapped, None) or error.__cause__ or error.__context__
    return None if error is None else error.verify_message


def quoted(*parts: object) -> str:
    """Return a path of these parts."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def read(call: Call, answer: Answer) -> Any:
    """Return the JSON of an answer; ``None`` if it has no body.

    :raises ServerError: it is a refusal, or no JSON
    """
    if answer.status not in _OK:
        raise refusal(call, answer)
    if not answer.body:
        return None
    value = _json(answer)
    if value is None:
        raise ServerError(f"{call.shown_url} answered {answer.status} without JSON", status=answer.status)
    return value


def refusal(call: Call, answer: Answer) -> ServerError:
    """Return the error that an answer is."""
    fields = _json(answer)
    message = f"{call.method} {call.shown_url} answered {answer.status}"
    if not isinstance(fields, dict) or "error" not in fields:
        question = f": {_QUESTIONS.get(answer.status, _WHERE)}" if answer.status < _FAILED else ""
        return ServerError(message + question, status=answer.status)
    code = str(fields["error"])
    where = f" at {fields['path']}" if fields.get("path") else ""
    return ServerError(
        f"{message} {code}{where}: {fields.get('message', '')}", status=answer.status, code=code
    )


def parsed(call: Call, answer: Answer, parse: Callable[[Any], T]) -> T:
    """Return what ``parse`` makes of the JSON of an answer.

    :raises ServerError: it is a refusal, or cannot be read
    """
    value = read(call, answer)
    try:
        return parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(
            f"{call.shown_url} answered what cannot be read ({type(error).__name__}: {error})",
            status=answer.status,
            code="not_understood",
        ) from None


def look_call(access: Access, uuid: str, position: Position) -> Call:
    """Return the request for what is new of an action: a small one, which many may send."""
    if access.target.kind is Kind.WEBDA:
        return access.call("GET", quoted("actions", uuid))
    headers = {"If-None-Match": position.etag} if position.etag else {}
    query = {"afterLine": position.line, "afterReport": position.report}
    return access.call("GET", quoted("actions", uuid, "changes"), query=query, headers=headers)


def look_of(access: Access, call: Call, answer: Answer, position: Position) -> Look:
    """Return what an answer to :func:`look_call` shows.

    :raises ServerError: it is a refusal
    """
    if answer.status == _NOT_MODIFIED:
        return Look(position=position)

    def show(fields: Any) -> Look:
        if access.target.kind is Kind.WEBDA:
            return _webda_look(fields, position)
        logs = RemoteLogs.from_json(fields["logs"], after=position.line)
        reports = [int(report["id"]) for report in fields.get("reports", {}).get("reports", ())]
        seen = Position(
            line=logs.last_line,
            report=max([position.report, *reports]),
            etag=answer.headers.get("etag"),
        )
        return Look(position=seen, action=RemoteAction.from_json(fields["action"]), logs=logs)

    return parsed(call, answer, show)


def _webda_look(fields: Any, position: Position) -> Look:
    logs = RemoteLogs.from_list(fields.get("logs"), after=position.line)
    action = RemoteAction.from_json(fields)
    return Look(position=Position(line=logs.last_line), action=action, logs=logs)


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _kind(value: Any) -> Kind:
    try:
        return Kind(str(value or Kind.AIRFLOW).lower())
    except ValueError:
        raise ValueError(f'kind is {value!r}: it must be "airflow" or "webda"') from None


def _base_url(connection: Any, kind: Kind) -> str:
    host = (connection.host or "").strip()
    if not host:
        raise ValueError("the connection has no host: https://airflow.example.org/async, or a name alone")
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("host is no URL such as https://airflow.example.org/async; or schema not http(s)")
    if parts.username or parts.password:
        raise ValueError("host has a user or password in it: use login and password")
    place = parts.netloc
    if connection.port and parts.port is None:
        place = f"{place}:{connection.port}"
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/") or _PATHS[kind], "", ""))


def _verify(value: Any) -> bool | str:
    if value is None or isinstance(value, bool):
        return value is not False
    text = str(value).strip()
    if text.lower() in _TRUE:
        return True
    return False if text.lower() in _FALSE else text


def _seconds(value: Any) -> float:
    try:
        seconds = 30.0 if value in (None, "") else float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"timeout is {value!r}: it must be a positive number of seconds")
    return seconds
