# SPDX-License-Identifier: Apache-2.0
"""What users ask for in queries, headers and bodies, checked: nonsense is a 400 that names the parameter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any

from flask import Request

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.json_schema import (
    BadSchema,
    CompiledSchema,
    TooLarge,
    compiled,
    find_mistake,
    measure,
)
from airflow_asyncaction.json_schema.dialect import DIALECT
from airflow_asyncaction.json_schema.limits import MAX_VALUES
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId, is_job_id
from airflow_asyncaction.protocol.operations import Schema
from airflow_asyncaction.protocol.reports import parse_object
from airflow_asyncaction.protocol.strict_json import JsonText, dumps, has_more_values
from airflow_asyncaction.store.listing import Filter

LARGEST_NUMBER = 2**31 - 1
MAX_UNDECLARED = 200
"""Names in an input that its schema does not declare: Airflow makes a Param of each, in a millisecond."""
MAX_BACKTRACKED = 1_000
"""Values in the input of an operation whose Params Airflow validates by a validator that backtracks."""

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")  # databases reject these; surrogates: see WireRequest.args
_UNIX_MS = re.compile(r"\d{1,15}")


def filter_of(request: Request) -> Filter:
    """Return which actions a request asks for.

    :raises UserRefused: a parameter makes no sense
    """
    return Filter(
        type=text_of(request, "type"),
        states={_state(value) for value in request.args.getlist("status")},
        dag_id=text_of(request, "dag"),
        run_id=text_of(request, "run"),
        task_id=text_of(request, "task"),
        map_index=None
        if "mapIndex" not in request.args
        else number_of(request, "mapIndex", default=-1, least=-1, most=LARGEST_NUMBER),
        since=time_of(request, "since"),
        until=time_of(request, "until"),
    )


def text_of(request: Request, name: str) -> str | None:
    """Return a parameter of the query: up to 250 characters."""
    value = request.args.get(name)
    if value is not None and (not 0 < len(value) <= 250 or _NO_TEXT.search(value)):
        raise _malformed(name, "must be 1 to 250 characters in UTF-8, without NUL")
    return value


def number_of(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """Return an integer of the query."""
    value = request.args.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,10}", value) or not least <= int(value) <= most:
        raise _malformed(name, f"must be an integer from {least} to {most}")
    return int(value)


def flag_of(request: Request, name: str) -> bool:
    """Return a ``true`` or ``false`` of the query."""
    value = request.args.get(name, "false")
    if value not in ("true", "false"):
        raise _malformed(name, "must be true or false")
    return value == "true"


def cursor_of(request: Request) -> JobId | None:
    """Return where a page of a list starts."""
    value = request.args.get("cursor")
    if value is None:
        return None
    if not is_job_id(value):
        raise _malformed("cursor", "must be the nextCursor of the page before")
    return JobId(value.lower())


def time_of(request: Request, name: str) -> datetime | None:
    """Return a moment of the query: Unix time in ms, or ISO 8601 with its offset from UTC."""
    value = request.args.get(name)
    if value is None:
        return None
    try:
        if _UNIX_MS.fullmatch(value):
            return datetime.fromtimestamp(int(value) / 1000, UTC)
        moment = datetime.fromisoformat(value.replace(" ", "+"))  # what an unescaped + has become
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise _malformed(name, "must be a Unix time in ms, or a time such as 2026-11-24T18:00:00Z")


def idempotency_key_of(request: Request) -> str | None:
    """Return the header Idempotency-Key."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise _malformed("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return key


def parse_input(body: bytes) -> dict[str, Any]:
    """Parse the input of an operation, unless it has more values than are validated.

    :raises UserRefused: it has
    :raises MalformedRequest: it is no JSON object
    """
    if has_more_values(body.decode("utf-8", "replace"), MAX_VALUES):
        raise _invalid("$", f"The input has more than {MAX_VALUES:,} values: use a file instead")
    return parse_object(body)


def checked_input(fields: Mapping[str, Any], schema: Schema | None, *, is_linear: bool = True) -> JsonText:
    """Return the input of an operation as it is stored.

    :param schema: that it must be valid under
    :param is_linear: whether Airflow, which validates it again, takes no longer than this does
    :raises UserRefused: it is not, or is too large; the first mistake is named with its JSON path
    """
    undeclared = fields.keys() - _declared(schema)
    if len(undeclared) > MAX_UNDECLARED:
        raise _invalid(
            "$",
            f"The input has {len(undeclared):,} names that the schema does not declare; at most"
            f" {MAX_UNDECLARED} are allowed: put them into one object",
        )
    usable = None if schema is None else _usable(schema)
    if not is_linear:
        _check_small(fields, usable)
    mistake = find_mistake(fields, usable)
    if mistake is not None:
        raise _invalid(mistake.path, mistake.message)
    return dumps(dict(sorted(fields.items())))


def _usable(schema: Schema) -> CompiledSchema:
    try:
        return compiled(schema)
    except BadSchema as error:
        raise _bad_schema(str(error)[:300]) from error


def _check_small(fields: Mapping[str, Any], schema: CompiledSchema | None) -> None:
    """Check that an input is small enough for Airflow's own validator.

    :raises UserRefused: it is not, or no input is
    """
    if schema is not None and schema.weight.has_patterns:
        raise _bad_schema(
            "it has a pattern, which Airflow would match by backtracking. Give each Param of the Dag the"
            f" $schema {DIALECT!r}, or the Dag a task of airflow_asyncaction that is not mapped"
        )
    try:
        is_small = measure(fields).units <= MAX_BACKTRACKED
    except TooLarge as error:
        raise _invalid(error.path, str(error)) from None
    if not is_small:
        said = (
            f"The input has more than {MAX_BACKTRACKED:,} values, or as much text. A Dag with a task of"
            " airflow_asyncaction that is not mapped takes more"
        )
        raise _invalid("$", said)


def _declared(schema: Schema | None) -> AbstractSet[str]:
    properties = (schema or {}).get("properties")
    return properties.keys() if isinstance(properties, dict) else frozenset()


def _bad_schema(said: str) -> UserRefused:
    return UserRefused(f"The operation's schema cannot be used: {said}", code="bad_schema")


def _invalid(path: str, said: str) -> UserRefused:
    return UserRefused(f"{path}: {said}", code="invalid_input", path=path)


def _state(value: str) -> State:
    try:
        return State(value)
    except ValueError:
        raise _malformed("status", f"must be one of {', '.join(State)}") from None


def _malformed(name: str, said: str) -> UserRefused:
    return UserRefused(f"{name} {said}", code="malformed", field=name)
