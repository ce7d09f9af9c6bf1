# SPDX-License-Identifier: Apache-2.0
"""Engine: compiles schemas after weighing them, since references can make a small schema very large."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import time
from functools import lru_cache
from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions, Registry, ValidationError

from airflow_asyncaction.json_schema.limits import Size, json_path
from airflow_asyncaction.json_schema.weight import BadSchema, Weight, quote_value, weigh

MAX_WORK = 20_000_000
"""Maximum product of a schema's weight and an input's units. Validation takes at most one second."""
MAX_MATCHED_CHARS = 256 * 1024
"""Maximum number of characters in an input whose schema has a pattern. Matching takes O(input x pattern)."""
_MAX_SCHEMA_BYTES = 256 * 1024
_COMPILED = 64

PATTERNS = RegexOptions(size_limit=128 * 1024, dfa_size_limit=1024 * 1024)
"""Regular expressions without backtracking, with the maximum size of a compiled pattern in bytes."""


_DURATION = re.compile(
    r"P(?=[0-9T])(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?", re.ASCII
)


def _is_time(text: str) -> bool:
    try:
        time.fromisoformat(text)
    except ValueError:
        return False
    return True


_FORMATS: dict[str, Callable[[str], bool]] = {
    "duration": lambda text: _DURATION.fullmatch(text.removeprefix("-")) is not None,
    "time": _is_time,
}
"""Formats for which the engine is too strict. Airflow's form and Python omit the UTC offset of times."""


class CompiledSchema:
    """Compiled JSON Schema, draft 2020-12.

    :param schema: schema as declared; ``$schema`` is ignored
    :raises BadSchema: it is not supported; the message says where and why
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = {key: value for key, value in schema.items() if key != "$schema"}
        self.weight: Weight = weigh(self.schema)
        for path, pattern in self.weight.patterns:
            _check_pattern(path, pattern)
        self._validator = new_validator(self.schema)

    def is_valid(self, value: Any) -> bool:
        """Return whether a value is valid. Check its size with :meth:`explain_excess` first."""
        return self._validator.is_valid(value)

    def explain_excess(self, size: Size) -> str | None:
        """Return why an input of this size is too expensive to validate; ``None`` if it is not."""
        if self.weight.units * size.units > MAX_WORK:
            most = MAX_WORK // self.weight.units
            return f"The input is too large for the operation's schema, which can validate {most:,} values"
        if self.weight.has_patterns and size.chars > MAX_MATCHED_CHARS:
            return (
                f"The input has more than {MAX_MATCHED_CHARS:,} characters, and the operation's schema has a"
                " pattern: use a file instead"
            )
        return None


def compile_schema(schema: Mapping[str, Any]) -> CompiledSchema:
    """Compile a schema. The most recent ones are cached.

    :raises BadSchema: it is not supported; the message says where and why
    """
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSchema(f"it is not JSON ({error})") from None
    if len(text) > _MAX_SCHEMA_BYTES:
        raise BadSchema(f"it has more than {_MAX_SCHEMA_BYTES:,} bytes")
    return _compiled(text)


@lru_cache(maxsize=_COMPILED)
def _compiled(text: str) -> CompiledSchema:
    schema = json.loads(text)
    if not isinstance(schema, dict):
        raise BadSchema("it is not an object")
    return CompiledSchema(schema)


def new_validator(
    schema: Mapping[str, Any], *, registry: Registry | None = None, mask: str | None = None
) -> Draft202012Validator:
    """Return the engine's validator for a schema.

    :param registry: targets of references to other schemas; nothing is ever fetched
    :param mask: replaces the value in error messages
    :raises BadSchema: the schema is not supported; the message says where and why
    """
    try:
        return Draft202012Validator(
            dict(schema),
            validate_formats=True,
            formats=_FORMATS,
            offline=True,
            pattern_options=PATTERNS,
            registry=registry,
            mask=mask,
        )
    except ValidationError as error:
        raise BadSchema(f"{json_path(error.instance_path)}: {error.message[:200]}") from None
    except (ValueError, OverflowError) as error:  # numbers or nesting that the engine does not support
        raise BadSchema(str(error)[:200]) from None


def _check_pattern(path: str, pattern: str) -> None:
    try:
        new_validator({"pattern": pattern})
    except BadSchema:
        raise BadSchema(
            f"{path}: the pattern {quote_value(pattern)} cannot be used. It must be a regular expression"
            " without lookaround, back-references and \\Z. Use maxLength for long repetitions"
        ) from None
