# SPDX-License-Identifier: Apache-2.0
"""Limits of inputs: checked in a single pass, before more expensive validation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 64
MAX_VALUES = 10_000
"""Maximum number of values, nested ones included. Airflow takes 100 ms to create a run with that many."""
INTEGERS = range(-(2**63), 2**64)
"""Integers that Airflow can pass to a task: it encodes a run's conf with msgpack."""
_CHARS_PER_VALUE = 64
_MAX_PATH_CHARS = 500
_MAX_NAME_CHARS = 100

_INVALID_TEXT = re.compile(r"[\0\ud800-\udfff]")  # databases reject NUL and lone surrogates
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Path = tuple[Any, ...]
"""Path to a value: names and indexes from the root."""


class TooLarge(ValueError):
    """An input exceeds a limit, or has a value that Airflow cannot store.

    :param path: JSON path such as ``$.days[0]``
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Size:
    """Size of an input.

    :param values: number of values, nested ones included
    :param chars: number of characters in all names and strings
    """

    values: int
    chars: int

    @property
    def units(self) -> int:
        """Validation cost in values. Long strings count more than once."""
        return self.values + self.chars // _CHARS_PER_VALUE


def json_path(path: Iterable[Any]) -> str:
    """Format a path as JSONPath, truncated to 500 characters."""
    return ("$" + "".join(map(_format_step, path)))[:_MAX_PATH_CHARS]


def measure(value: Any) -> Size:
    """Measure the size of an input.

    :raises TooLarge: it exceeds a limit, or Airflow cannot store one of its values
    """
    values, chars = 1, _count_chars(value, _ROOT)
    waiting = [(_ROOT, value)] if isinstance(value, _CONTAINERS) else []
    while waiting:
        link, container = waiting.pop()
        if link.depth >= MAX_DEPTH:
            raise TooLarge(link.path(), f"The input is nested deeper than {MAX_DEPTH} levels")
        values += len(container)
        if values > MAX_VALUES:
            raise TooLarge("$", f"The input has more than {MAX_VALUES:,} values: use a file instead")
        for key, child in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(child, _CONTAINERS):
                waiting.append((_Link(link, key), child))
            elif isinstance(child, str):
                chars += _count_chars(child, link, key)
            else:
                _check_number(child, link, key)
            if isinstance(key, str):
                chars += _count_chars(key, link)
    return Size(values, chars)


class _Link:
    """Path as a linked list, so that a step costs the same at any depth."""

    __slots__ = ("depth", "key", "parent")

    def __init__(self, parent: _Link | None, key: Any) -> None:
        self.parent = parent
        self.key = key
        self.depth: int = 0 if parent is None else parent.depth + 1

    def path(self, *key: Any) -> str:
        """Return the JSON path, with further keys appended."""
        keys, link = [*key], self
        while link.parent is not None:
            keys.append(link.key)
            link = link.parent
        return json_path(reversed(keys))


_ROOT = _Link(None, None)
_CONTAINERS = (dict, list, tuple)


def _count_chars(value: Any, link: _Link, *key: Any) -> int:
    if not isinstance(value, str):
        return 0
    if _INVALID_TEXT.search(value):
        message = "A string has the character NUL or a lone surrogate, which databases reject"
        raise TooLarge(link.path(*key), message)
    return len(value)


def _check_number(value: Any, link: _Link, key: Any) -> None:
    if isinstance(value, int) and value not in INTEGERS:
        raise TooLarge(link.path(key), "An integer has more than 64 bits: send it as a string")
    if isinstance(value, float) and not math.isfinite(value):
        raise TooLarge(link.path(key), f"{value} is not JSON")


def _format_step(key: Any) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if _NAME.fullmatch(key):
        return f".{key[:_MAX_NAME_CHARS]}"
    return f"[{key[:_MAX_NAME_CHARS]!r}]"
