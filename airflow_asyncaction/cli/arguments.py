# SPDX-License-Identifier: Apache-2.0
"""What commands are given, checked: what makes no sense is one line and exit code 1."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from airflow_asyncaction.exceptions import AsyncActionError, MalformedReport, StoreUnavailable
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.operations import IDEMPOTENCY_KEY
from airflow_asyncaction.protocol.reports import parse_object

P = ParamSpec("P")
T = TypeVar("T")


def plain_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Let a command say what is wrong in one line, without a traceback."""

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
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it fails again at the end
            raise SystemExit(141) from None

    return run


def moment(text: str | None, option: str) -> datetime | None:
    """Return a time: Unix time in ms, or ISO 8601; without an offset it is UTC."""
    if text is None:
        return None
    try:
        if text.isascii() and text.isdecimal():
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        given = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        said = "must be a Unix time in ms, or a time such as 2026-11-24T18:00:00Z"
        raise SystemExit(f"{option} {said}, not {text!r}") from None
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def states(texts: list[str] | None) -> list[State]:
    """Return states by their names."""
    try:
        return [State(text.upper()) for text in texts or ()]
    except ValueError:
        raise SystemExit(f"--status must be one of {', '.join(State)}") from None


def json_object(text: str | None) -> dict[str, Any]:
    """Return the JSON object that is given, or is in the file after ``@``; ``@-`` is the standard input."""
    try:
        return parse_object(_content(text or "{}"))
    except OSError as error:
        raise SystemExit(f"--input {error.filename!r} cannot be read: {error.strerror}") from None
    except MalformedReport as error:
        raise SystemExit(f"--input must be a JSON object: {error}") from None


def idempotency_key(text: str | None) -> str | None:
    """Return a key as a header could have it, too."""
    if text is not None and not IDEMPOTENCY_KEY.fullmatch(text):
        raise SystemExit("--idempotency-key must be 1 to 255 visible ASCII characters")
    return text


def is_confirmed(question: str) -> bool:
    """Ask; who cannot answer has not confirmed."""
    try:
        return input(f"{question} [y/N] ").strip().lower() == "y"
    except EOFError:
        return False


def _content(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    return sys.stdin.buffer.read() if text == "@-" else Path(text[1:]).read_bytes()
