# SPDX-License-Identifier: Apache-2.0
"""Command arguments: parses them, or exits with code 1 and a message of one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from airflow_asyncaction.exceptions import AsyncActionError, MalformedRequest, StoreUnavailable
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.operations import IDEMPOTENCY_KEY
from airflow_asyncaction.protocol.reports import parse_object

P = ParamSpec("P")
T = TypeVar("T")


def exit_on_error(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command print errors as one line, without a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except StoreUnavailable as error:
            cause = str(error.__cause__ or "no free connection").splitlines()[0]
            raise SystemExit(f"{error} ({cause})") from None
        except AsyncActionError as error:
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it fails again at exit
            raise SystemExit(141) from None

    return run


def parse_time(text: str | None, option: str) -> datetime | None:
    """Parse a time: Unix time in ms, or ISO 8601. Without a UTC offset it is in UTC."""
    if text is None:
        return None
    try:
        if text.isascii() and text.isdecimal():
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        expected = "must be a Unix time in ms, or a time such as 2026-11-24T18:00:00Z"
        raise SystemExit(f"{option} {expected}, not {text!r}") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def parse_states(texts: list[str] | None) -> list[State]:
    """Parse the names of states, in upper or lower case."""
    try:
        return [State(text.upper()) for text in texts or ()]
    except ValueError:
        raise SystemExit(f"--status must be one of {', '.join(State)}") from None


def parse_json_object(text: str | None) -> dict[str, Any]:
    """Parse a JSON object. ``@FILE`` reads it from a file, ``@-`` from standard input."""
    try:
        return parse_object(_read(text or "{}"))
    except OSError as error:
        raise SystemExit(f"--input {error.filename!r} cannot be read: {error.strerror}") from None
    except MalformedRequest as error:
        raise SystemExit(f"--input must be a JSON object: {error}") from None


def parse_idempotency_key(text: str | None) -> str | None:
    """Parse a key, with the same rules as for the header ``Idempotency-Key``."""
    if text is not None and not IDEMPOTENCY_KEY.fullmatch(text):
        raise SystemExit("--idempotency-key must be 1 to 255 visible ASCII characters")
    return text


def confirm(question: str) -> bool:
    """Ask the user for confirmation. Without input the answer is no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() == "y"
    except EOFError:
        return False


def _read(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    return sys.stdin.buffer.read() if text == "@-" else Path(text[1:]).read_bytes()
