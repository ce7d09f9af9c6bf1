# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: no duplicate keys, NaN, infinity or lone surrogates, and limited nesting."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NewType

JsonText = NewType("JsonText", str)
"""A JSON value as ASCII text. Untrusted data is passed on as text, never as objects."""

MAX_DEPTH = 64
MAX_VALUES = 100_000
"""Maximum number of values in a body. An empty object takes 3 bytes of text, but much more memory."""

_STRING = re.compile(
    r'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)', re.DOTALL
)  # always matches, so no string is scanned twice
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_RESERVED_BY_AIRFLOW = frozenset(
    {"__classname__", "__version__", "__data__", "__type", "__var", "__id__", "__source__"}
)

_LEAST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1
# Matches the text of each strictly parsed value that an XCom cannot hold: NUL, many digits, reserved keys.
_MAY_NOT_FIT = re.compile(r'\\u0000|[0-9]{19}|"__')
_SURROGATE = re.compile("[\ud800-\udfff]")


class NotJson(ValueError):
    """The text is not valid strict JSON."""


def loads(body: bytes | str, *, max_values: int | None = None) -> Any:
    """Parse strict JSON.

    :param body: UTF-8
    :param max_values: maximum number of values, checked before parsing
    :raises NotJson: the text is invalid
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        if max_values is not None and has_more_values(text, max_values):
            raise NotJson(f"more than {max_values} values (use a file instead)")
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
    # In decoded text, only escapes can be lone surrogates.
    may_have_surrogates = isinstance(body, str) or _ESCAPED_SURROGATE.search(text) is not None
    _check(value, MAX_DEPTH, may_have_surrogates=may_have_surrogates)
    return value


def dumps(value: Any) -> JsonText:
    """Serialize a value as compact ASCII JSON."""
    return JsonText(json.dumps(value, separators=(",", ":"), allow_nan=False))


def has_more_values(text: str, limit: int) -> bool:
    """Return whether a text has more values than allowed: each follows a bracket, a brace or a comma."""
    if _count(text) < limit:
        return False
    return _count(_STRING.sub("", text)) >= limit  # without those in strings


def is_equal(one: JsonText, other: JsonText | None) -> bool:
    """Return whether two texts are the same value. The order of keys in objects does not matter."""
    return one == other or (other is not None and _sorted(one) == _sorted(other))


def xcom_from_text(text: JsonText) -> Any:
    """Convert a job's value for an XCom. See :func:`to_xcom`."""
    return xcom_and_changed(text)[0]


def xcom_and_changed(text: JsonText) -> tuple[Any, bool]:
    """Return the result of :func:`to_xcom`, and whether it differs from the value.

    The value is only walked if its text may contain something that an XCom cannot hold.
    """
    value = json.loads(text)
    fitting = to_xcom(value) if _MAY_NOT_FIT.search(text) else value
    return fitting, fitting is not value


def to_xcom(value: Any) -> Any:
    """Replace by JSON text the parts of a job's value that an XCom cannot hold.

    These are the parts that :func:`to_storable` replaces, and objects with keys that are reserved by
    Airflow's serializer (``__classname__`` and the like), which would refuse them or return another type.

    :returns: the value itself if nothing is replaced
    """
    return _fitting(value, _RESERVED_BY_AIRFLOW, MAX_DEPTH)


def to_storable(value: Any) -> Any:
    """Replace by JSON text the parts of a value that Airflow cannot transport or store.

    PostgreSQL's JSONB has no NUL, JSON has no NaN, and UTF-8 has no lone surrogates. Msgpack, in which tasks
    receive values, has integers from -2^63 to 2^64 - 1.

    :param value: a parsed JSON value
    :returns: the value itself if nothing is replaced
    """
    return _fitting(value, frozenset(), MAX_DEPTH)


def _sorted(text: JsonText) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotJson("an object has a duplicate key")
    return result


def _no_constant(name: str) -> Any:
    raise NotJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson("a number is too large")
    return number


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


def _fitting(value: Any, reserved_keys: frozenset[str], depth: int) -> Any:
    """Replace by JSON text the parts that do not fit. Return the value itself if nothing is replaced."""
    if isinstance(value, (dict, list)):
        if depth == 0 or (isinstance(value, dict) and not _has_fitting_keys(value, reserved_keys)):
            return _text(value)
        names = value if isinstance(value, dict) else range(len(value))
        changed = {}
        for name in names:
            fitting = _fitting(value[name], reserved_keys, depth - 1)
            if fitting is not value[name]:
                changed[name] = fitting
        if not changed:
            return value
        if isinstance(value, dict):
            return {**value, **changed}
        return [changed.get(index, child) for index, child in enumerate(value)]
    return value if _is_storable(value) else _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _has_fitting_keys(value: dict[Any, Any], reserved_keys: frozenset[str]) -> bool:
    return reserved_keys.isdisjoint(value) and all(map(_is_storable, value))


def _is_storable(value: Any) -> bool:
    """Return whether a value that is not a list or object can be stored."""
    if isinstance(value, str):
        return "\0" not in value and (value.isascii() or not _SURROGATE.search(value))
    if isinstance(value, int):
        return _LEAST_INTEGER <= value <= _LARGEST_INTEGER
    return not isinstance(value, float) or math.isfinite(value)
