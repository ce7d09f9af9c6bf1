# SPDX-License-Identifier: Apache-2.0
"""JSON as the protocol takes it: no duplicate keys, NaN, lone surrogates or bottomless nesting."""

from __future__ import annotations

import json
import math
from typing import Any, NewType

JsonText = NewType("JsonText", str)
"""One JSON value as ASCII text; so that untrusted data travels as a string, never as live objects."""

MAX_DEPTH = 64

_RESERVED_BY_AIRFLOW = frozenset(
    {"__classname__", "__version__", "__data__", "__type", "__var", "__id__", "__source__"}
)


class NotJson(ValueError):
    """The text is not JSON as this protocol takes it."""


def loads(body: bytes | str) -> Any:
    """Parse strictly.

    :param body: UTF-8
    :raises NotJson: with what is wrong
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
    except NotJson:
        raise
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise NotJson(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise NotJson(str(error)) from None
    _check(value, MAX_DEPTH)
    return value


def dumps(value: Any) -> JsonText:
    """Return a parsed value as compact ASCII JSON."""
    return JsonText(json.dumps(value, separators=(",", ":"), allow_nan=False))


def is_equal(one: JsonText, other: JsonText | None) -> bool:
    """Tell whether two texts are the same value. The order of an object's keys does not matter."""
    return one == other or (other is not None and _sorted(one) == _sorted(other))


def for_xcom(text: JsonText) -> Any:
    """Return a job's value as Airflow may store it in an XCom.

    A value with keys that Airflow's serializer gives a meaning to (``__classname__`` and the like) would be
    refused, or come back as another type: it is returned as its JSON text.
    """
    value = json.loads(text)
    return text if _has_reserved_key(value) else value


def _sorted(text: JsonText) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotJson("an object has a key twice")
    return result


def _no_constant(name: str) -> Any:
    raise NotJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson("a number is too large")
    return number


def _check(value: Any, depth: int) -> None:
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise NotJson(f"nested deeper than {MAX_DEPTH} levels")
        for child in value.values() if isinstance(value, dict) else value:
            _check(child, depth - 1)
        if isinstance(value, dict):
            for key in value:
                _check_text(key)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise NotJson("a string has a lone surrogate") from None


def _has_reserved_key(value: Any) -> bool:
    if isinstance(value, dict):
        return not _RESERVED_BY_AIRFLOW.isdisjoint(value) or any(map(_has_reserved_key, value.values()))
    return isinstance(value, list) and any(map(_has_reserved_key, value))
