# SPDX-License-Identifier: Apache-2.0
"""RemoteApi: the user routes of another deployment, as requests to send and responses to parse.

It performs no I/O. ``RemoteSession`` drives it with requests for workers, ``RemoteClient`` with httpx for
triggers.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin

from pydantic import ValidationError

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable
from airflow_asyncaction.hooks.remote_connection import RemoteConnection, origin_of
from airflow_asyncaction.hooks.remote_models import (
    PollResult,
    Position,
    RemoteAction,
    RemoteFile,
    RemoteLogs,
    RemoteOperation,
    Watch,
)
from airflow_asyncaction.protocol.reports import Limits
from airflow_asyncaction.protocol.responses import ServerResponse, is_hang_up

T = TypeVar("T")

UNVERIFIED = "unverified_certificate"
"""Code of the error that the other deployment's certificate cannot be verified."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_URL_ADVICE = "Check that host of the connection is the base URL, such as https://airflow.example.org/async"
# For servers that give no reason, such as webda.
_ADVICE = {
    400: "Check the arguments against the operation's schema",
    403: "Check what the connection's user may do",
    404: f"Check that the operation or action exists. {_URL_ADVICE}",
}


@dataclass(frozen=True, kw_only=True)
class RemoteRequest:
    """One request to another deployment, without credentials."""

    method: str
    url: str
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def shown_url(self) -> str:
        """The URL without its query, for error messages."""
        return self.url.partition("?")[0]


Exchange = Generator[RemoteRequest, ServerResponse, T]
"""Yields requests, receives their responses, and returns the parsed result."""


class RemoteApi:
    """Builds the requests of a deployment's user routes, and parses the responses.

    Every method is an :data:`Exchange` that raises ``ServerError`` if the server refuses a request or returns
    something that cannot be parsed.
    """

    def __init__(self, connection: RemoteConnection) -> None:
        self.connection = connection

    def operation_ids(self) -> Exchange[Sequence[str]]:
        """Return the ids of the operations that the connection's user may launch."""
        # webda matches a route only if each of its query parameters is present, even if empty.
        request = self._operations(full="" if self.connection.is_webda else None)
        return _parse(request, (yield request), lambda ids: [str(id_) for id_ in ids])

    def operations(self) -> Exchange[Mapping[str, RemoteOperation]]:
        """Return the same operations with their schemas, by id."""
        request = self._operations(full="true")
        return _parse(request, (yield request), _operations)

    def launch(
        self,
        operation: str,
        arguments: Mapping[str, Any] | None,
        *,
        schedule_ms: int | None,
        idempotency_key: str,
    ) -> Exchange[RemoteAction]:
        """Launch an operation, and return its action. webda may return one without an id."""
        is_webda = self.connection.is_webda
        request = self._request(
            "PUT",
            _path(operation),
            query={"schedule": "" if schedule_ms is None and is_webda else schedule_ms},
            fields={} if arguments is None else dict(arguments),
            headers={"Idempotency-Key": idempotency_key},
        )
        response = yield request
        if not is_webda:
            return _parse(request, response, RemoteAction.from_json)
        state = "QUEUED" if schedule_ms is None else "SCHEDULED"
        known = _value(request, response)
        fields = {"uuid": "", "type": operation, "status": state}
        return RemoteAction.from_json({**fields, **(known if isinstance(known, dict) else {})})

    def get(self, uuid: str) -> Exchange[RemoteAction]:
        """Return an action with its results."""
        request = self._request("GET", _path("actions", uuid))
        return _parse(request, (yield request), RemoteAction.from_json)

    def page(self, query: Mapping[str, Any]) -> Exchange[tuple[Sequence[RemoteAction], str | None]]:
        """Return one page of actions, without arguments and results, and the cursor of the next page."""
        request = self._request("GET", "/actions", query=query)
        return _parse(request, (yield request), _page)

    def poll(self, watch: Watch) -> Exchange[PollResult]:
        """Return what is new about an action. The request is small, since it is sent often."""
        position = watch.position
        if self.connection.is_webda:
            request = self._request("GET", _path("actions", watch.action_id))
            return _parse(request, (yield request), lambda fields: _webda_poll_result(fields, position))
        headers = {"If-None-Match": position.etag} if position.etag else {}
        query = {"afterLine": position.line, "afterReport": position.report}
        path = _path("actions", watch.action_id, "changes")
        request = self._request("GET", path, query=query, headers=headers)
        response = yield request
        if response.status == HTTPStatus.NOT_MODIFIED:
            return PollResult(position=position)
        etag = response.headers.get("etag")
        return _parse(request, response, lambda fields: _poll_result(fields, position, etag))

    def logs(self, uuid: str, after: int) -> Exchange[RemoteLogs]:
        """Return log lines after the given one."""
        if self.connection.is_webda:
            action = yield from self.get(uuid)
            return RemoteLogs.from_list(action.fields.get("logs"), after=after)
        request = self._request("GET", _path("actions", uuid, "logs"), query={"after": after})
        return _parse(request, (yield request), lambda fields: RemoteLogs.from_json(fields, after=after))

    def files(self, uuid: str) -> Exchange[Sequence[RemoteFile]]:
        """Return the inputs and outputs of an action."""
        request = self._request("GET", _path("actions", uuid, "files"))
        return _parse(request, (yield request), _files)

    def content_url(self, uuid: str, file: RemoteFile) -> Exchange[str]:
        """Return the URL of a file's content. The URL is a credential."""
        request = self._request("GET", _path("actions", uuid, "files", file.property, file.index))
        response = yield request
        location = response.headers.get("location")
        if response.status not in _REDIRECTS or location is None:
            raise refusal(request, response)
        return urljoin(request.url, location)

    def stop(self, uuid: str) -> Exchange[RemoteAction]:
        """Ask an action to stop; if it has ended, ask its last retry instead. Return it."""
        while True:
            request = self._request("PUT", _path("actions", uuid, "stop"))
            response = yield request
            if response.status != HTTPStatus.CONFLICT or response.error[0] != "already_ended":
                return _parse(request, response, RemoteAction.from_json)
            action = yield from self.get(uuid)
            if action.next_attempt is None:
                return action
            uuid = action.next_attempt

    def _operations(self, *, full: str | None) -> RemoteRequest:
        return self._request("GET", "" if self.connection.is_webda else "/", query={"full": full})

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        fields: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> RemoteRequest:
        """Return a request to a route.

        :param path: below the base URL, quoted
        :param query: ``None`` is omitted, a sequence is repeated
        :param fields: the body, to be sent as JSON
        """
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        text = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
        all_headers = {"Accept": "application/json", **(headers or {})}
        body = b""
        if fields is not None:
            body = json.dumps(fields, allow_nan=False).encode()
            all_headers["Content-Type"] = "application/json"
        url = f"{self.connection.base_url}{path}{text}"
        return RemoteRequest(method=method, url=url, body=body, headers=all_headers)


def refusal(request: RemoteRequest, response: ServerResponse) -> ServerError:
    """Convert an error response into an exception."""
    message = f"{request.method} {request.shown_url} returned {response.status}"
    retry_after_seconds = response.retry_after_seconds
    fields = response.fields
    if fields is None or "error" not in fields:
        if response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            message += f". {_ADVICE.get(response.status, _URL_ADVICE)}"
        return ServerError(message, status=response.status, retry_after_seconds=retry_after_seconds)
    code = str(fields["error"])
    path = f" at {fields['path']}" if fields.get("path") else ""
    return ServerError(
        f"{message} {code}{path}: {fields.get('message', '')}",
        status=response.status,
        code=code,
        retry_after_seconds=retry_after_seconds,
    )


def unreachable(url: str, error: Exception, *, body_bytes: int = 0) -> ServerError:
    """Return the error of a request that got no response.

    Do not raise it "from" the library's error: that holds the request, and with it the token.
    """
    place = origin_of(url)
    problem = _certificate_problem(error)
    if problem is not None:
        return ServerError(
            f"The certificate of {place} cannot be verified ({problem}). Set the extra field verify of the"
            " connection, or REQUESTS_CA_BUNDLE, to a file of CA certificates",
            code=UNVERIFIED,
        )
    if body_bytes > Limits().body_bytes and is_hang_up(error):
        message = f"{place} closed the connection while {body_bytes} bytes were sent, which may be too many"
        return ServerError(message, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, code="too_large")
    return ServerUnreachable(f"{place} cannot be reached ({type(error).__name__})")


def _certificate_problem(error: BaseException | None) -> str | None:
    """Return why a certificate could not be verified, if that caused the error."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        wrapped = (*error.args, error.__cause__, error.__context__)
        error = next((each for each in wrapped if isinstance(each, BaseException)), None)
    return None if error is None else error.verify_message


def _path(*parts: object) -> str:
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _value(request: RemoteRequest, response: ServerResponse) -> Any:
    """Return the JSON value of a response; ``None`` if it has no body."""
    if not response.is_success:
        raise refusal(request, response)
    value = response.value
    if value is None and response.body:
        raise ServerError(
            f"{request.shown_url} returned {response.status} without JSON", status=response.status
        )
    return value


def _parse(request: RemoteRequest, response: ServerResponse, parse: Callable[[Any], T]) -> T:
    value = _value(request, response)
    try:
        return parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(
            f"The response of {request.shown_url} cannot be parsed ({_describe(error)})",
            status=response.status,
            code="not_understood",
        ) from None


def _describe(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _operations(value: Mapping[str, Any]) -> Mapping[str, RemoteOperation]:
    if isinstance(value.get("operations"), Mapping) and "schemas" in value:  # webda lists schemas by name
        schemas = value["schemas"]
        value = {
            id_: {**fields, **{side: schemas.get(fields.get(side)) for side in ("input", "output")}}
            for id_, fields in value["operations"].items()
        }
    return {id_: RemoteOperation.from_json(id_, fields) for id_, fields in value.items()}


def _files(fields: Mapping[str, Any]) -> Sequence[RemoteFile]:
    return [RemoteFile.from_json(file) for file in fields["files"]]


def _page(fields: Mapping[str, Any]) -> tuple[Sequence[RemoteAction], str | None]:
    return [RemoteAction.from_json(action) for action in fields["actions"]], fields.get("nextCursor")


def _poll_result(fields: Any, position: Position, etag: str | None) -> PollResult:
    logs = RemoteLogs.from_json(fields["logs"], after=position.line)
    reports = [int(report["id"]) for report in fields.get("reports", {}).get("reports", ())]
    seen = Position(line=logs.last_line, report=max([position.report, *reports]), etag=etag)
    return PollResult(position=seen, action=RemoteAction.from_json(fields["action"]), logs=logs)


def _webda_poll_result(fields: Any, position: Position) -> PollResult:
    logs = RemoteLogs.from_list(fields.get("logs"), after=position.line)
    return PollResult(
        position=Position(line=logs.last_line), action=RemoteAction.from_json(fields), logs=logs
    )
