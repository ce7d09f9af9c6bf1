# SPDX-License-Identifier: Apache-2.0
"""JSON as the protocol takes it: no duplicate keys, NaN, lone surrogates or bottomless nesting."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NewType

JsonText = NewType("JsonText", str)
"""One JSON value as ASCII text; so that untrusted data travels as a string, never as live objects."""

MAX_DEPTH = 64
MAX_VALUES = 100_000
"""Most values in a body. Objects and arrays, 3 bytes each, cost much more than a long string."""

_STRING = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)', re.DOTALL)  # it never fails: none is read twice
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_RESERVED_BY_AIRFLOW = frozenset(
    {"__classname__", "__version__", "__data__", "__type", "__var", "__id__", "__source__"}
)


class NotJson(ValueError):
    """The text is not JSON as this protocol takes it."""


def loads(body: bytes | str, *, max_values: int | None = None) -> Any:
    """Parse strictly.

    :param body: UTF-8
    :param max_values: more of them are refused before they are parsed
    :raises NotJson: with what is wrong
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        if max_values is not None and _has_more_values(text, max_values):
            raise NotJson(f"more than {max_values} values: write them to a file")
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
    # Text that was decoded has none but those that are escaped.
    _check(value, MAX_DEPTH, may_have_surrogates=isinstance(body, str) or _SURROGATE.search(text) is not None)
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


def _has_more_values(text: str, limit: int) -> bool:
    """Tell whether a text has more values than allowed: each follows a bracket, a brace or a comma."""
    if _count(text) < limit:
        return False
    return _count(_STRING.sub("", text)) >= limit  # those in strings do not count


def _count(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _check(value: Any, depth: int, *, may_have_surrogates: bool) -> None:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise NotJson(f"nested deeper than {MAX_DEPTH} levels")
        for child in value.values() if isinstance(value, dict) else value:
            if may_have_surrogates or isinstance(child, (dict, list)):
                _check(child, depth - 1, may_have_surrogates=may_have_surrogates)
        if may_have_surrogates and isinstance(value, dict):
            for key in value:
                _check_text(key)
    elif isinstance(value, str):
        _check_text(value)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise NotJson("a string has a lone surrogate") from None


def _has_reserved_key(value: Any) -> bool:
    if isinstance(value, dict):
        return not _RESERVED_BY_AIRFLOW.isdisjoint(value) or any(map(_has_reserved_key, value.values()))
    return isinstance(value, list) and any(map(_has_reserved_key, value))
