# SPDX-License-Identifier: Apache-2.0
"""Query parameters and headers of user requests: parsed, or refused with 400 and the parameter's name."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from flask import Request

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId, is_job_id
from airflow_asyncaction.protocol.operations import IDEMPOTENCY_KEY
from airflow_asyncaction.store.filtering import Filter

LARGEST_NUMBER = 2**31 - 1

_WITHIN_DAG = ("run", "task", "mapIndex", "iteration")
"""Parameters that identify actions of a Dag. Without the Dag, no index finds them."""

_INVALID_TEXT = re.compile(r"[\0\ud800-\udfff]")  # databases reject these; surrogates: see WireRequest.args
_UNIX_MS = re.compile(r"\d{1,15}")


def parse_filter(request: Request) -> Filter:
    """Parse the filters of a list of actions.

    :raises UserRefused: a parameter is invalid, or only makes sense within a Dag and ``dag`` is missing
    """
    wanted = Filter(
        type=parse_text(request, "type"),
        states={_parse_state(value) for value in request.args.getlist("status")},
        dag_id=parse_text(request, "dag"),
        run_id=parse_text(request, "run"),
        task_id=parse_text(request, "task"),
        map_index=_parse_index(request, "mapIndex", least=-1),
        iteration=_parse_index(request, "iteration", least=0),
        since=parse_time(request, "since"),
        until=parse_time(request, "until"),
    )
    for name in _WITHIN_DAG:
        if name in request.args and wanted.dag_id is None:
            raise _malformed(name, "only filters the actions of one Dag: also give dag, the id of the Dag")
    return wanted


def parse_text(request: Request, name: str) -> str | None:
    """Parse a text parameter of 1 to 250 characters."""
    value = request.args.get(name)
    if value is not None and (not 0 < len(value) <= 250 or _INVALID_TEXT.search(value)):
        raise _malformed(name, "must be 1 to 250 characters in UTF-8, without NUL")
    return value


def parse_number(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """Parse an integer parameter."""
    value = request.args.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,10}", value) or not least <= int(value) <= most:
        raise _malformed(name, f"must be an integer from {least} to {most}")
    return int(value)


def parse_flag(request: Request, name: str) -> bool:
    """Parse a parameter that is ``true`` or ``false``, the default."""
    value = request.args.get(name, "false")
    if value not in ("true", "false"):
        raise _malformed(name, "must be true or false")
    return value == "true"


def parse_cursor(request: Request) -> JobId | None:
    """Parse the ``cursor`` of a page."""
    value = request.args.get("cursor")
    if value is None:
        return None
    if not is_job_id(value):
        raise _malformed("cursor", "must be the nextCursor of the previous page")
    return JobId(value.lower())


def parse_time(request: Request, name: str) -> datetime | None:
    """Parse a time parameter: Unix time in ms, or ISO 8601 with a UTC offset."""
    value = request.args.get(name)
    if value is None:
        return None
    try:
        if _UNIX_MS.fullmatch(value):
            return datetime.fromtimestamp(int(value) / 1000, UTC)
        time = datetime.fromisoformat(value.replace(" ", "+"))  # an unescaped + was decoded as a space
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise _malformed(name, "must be a Unix time in ms, or a time such as 2026-11-24T18:00:00Z")


def parse_idempotency_key(request: Request) -> str | None:
    """Parse the header ``Idempotency-Key``."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise _malformed("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return key


def _parse_index(request: Request, name: str, *, least: int) -> int | None:
    if name not in request.args:
        return None
    return parse_number(request, name, default=least, least=least, most=LARGEST_NUMBER)


def _parse_state(value: str) -> State:
    try:
        return State(value)
    except ValueError:
        raise _malformed("status", f"must be one of {', '.join(State)}") from None


def _malformed(name: str, requirement: str) -> UserRefused:
    return UserRefused(f"{name} {requirement}", code="malformed", field=name)
