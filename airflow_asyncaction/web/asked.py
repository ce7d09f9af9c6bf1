# SPDX-License-Identifier: Apache-2.0
"""What users ask for in queries, headers and bodies, checked: nonsense is a 400 that names the parameter."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Request
from jsonschema import Draft202012Validator, FormatChecker, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId, is_job_id
from airflow_asyncaction.protocol.operations import Schema
from airflow_asyncaction.protocol.strict_json import JsonText, dumps, is_storable
from airflow_asyncaction.store.listing import Filter

LARGEST_NUMBER = 2**31 - 1

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


def checked_input(fields: Mapping[str, Any], schema: Schema | None) -> JsonText:
    """Return the input of an operation as it is stored.

    :param schema: that it must be valid under
    :raises UserRefused: it is not; the first mistake is named with its JSON path
    """
    if schema is not None:
        _check(fields, schema)
    text = dumps(dict(sorted(fields.items())))
    if not is_storable(text):
        said = "a string has the character NUL, or an integer has more than 64 bits: Airflow takes neither"
        raise _invalid("$", said)
    return text


def _check(fields: Mapping[str, Any], schema: Schema) -> None:
    validator = _Validator(schema, registry=Registry(), format_checker=FormatChecker())
    try:
        _Validator.check_schema(schema)
        mistake = best_match(validator.iter_errors(fields))
    except (SchemaError, Unresolvable, re.error) as error:
        said = f"The operation's schema cannot be used: {str(error).splitlines()[0][:200]}"
        raise UserRefused(said, code="bad_schema") from error
    except (OverflowError, RecursionError) as error:
        raise _invalid("$", f"it cannot be checked ({error})") from error
    if mistake is not None:
        raise _invalid(mistake.json_path, mistake.message)


def _invalid(path: str, said: str) -> UserRefused:
    return UserRefused(f"{path}: {said[:500]}", code="invalid_input", path=path[:500])


def _unique_items(_: object, is_on: Any, items: Any, __: object) -> Iterator[ValidationError]:
    """Check that an array has no item twice: jsonschema compares each with each."""
    if is_on and isinstance(items, list) and len({_hashable(item) for item in items}) < len(items):
        yield ValidationError(f"{str(items)[:200]} has an item twice")


def _hashable(value: Any) -> Hashable:
    """Return what is equal for equal JSON: 1 and 1.0 are, 1 and true are not."""
    match value:
        case dict():
            return frozenset((name, _hashable(one)) for name, one in value.items())
        case list():
            return tuple(map(_hashable, value))
        case _:
            return (isinstance(value, bool), value)


_Validator = extend(Draft202012Validator, {"uniqueItems": _unique_items})  # type: ignore[no-untyped-call]


def _state(value: str) -> State:
    try:
        return State(value)
    except ValueError:
        raise _malformed("status", f"must be one of {', '.join(State)}") from None


def _malformed(name: str, said: str) -> UserRefused:
    return UserRefused(f"{name} {said}", code="malformed", field=name)
