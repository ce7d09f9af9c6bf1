# SPDX-License-Identifier: Apache-2.0
"""Compiles a schema once it has been weighed: by references a small one may stand for a very large one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import time
from functools import lru_cache
from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions, Registry, ValidationError

from airflow_asyncaction.json_schema.limits import Size, json_path
from airflow_asyncaction.json_schema.weight import BadSchema, Weight, quoted, weigh

MAX_WORK = 20_000_000
"""Weight of a schema times units of an input: about a second at worst."""
MAX_MATCHED_CHARS = 256 * 1024
"""Characters in an input whose schema has a pattern: a match takes up to input times pattern."""
_MAX_SCHEMA_BYTES = 256 * 1024
_COMPILED = 64

PATTERNS = RegexOptions(size_limit=128 * 1024, dfa_size_limit=1024 * 1024)
"""The engine without backtracking, and how large one compiled pattern may be, in bytes."""


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
"""Formats that the engine is stricter about: Airflow's form and Python write times without an offset."""


class CompiledSchema:
    """A schema that inputs are validated against, as draft 2020-12.

    :param schema: as it is given; ``$schema`` is not looked at
    :raises BadSchema: it cannot be used; says where and why
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = {key: value for key, value in schema.items() if key != "$schema"}
        self.weight: Weight = weigh(self.schema)
        for path, pattern in self.weight.patterns:
            _check_pattern(path, pattern)
        self._validator = new_validator(self.schema)

    def is_valid(self, value: Any) -> bool:
        """Tell whether a value is valid: one that has been measured and found affordable."""
        return self._validator.is_valid(value)

    def excess(self, size: Size) -> str | None:
        """Return why validating an input of this size costs too much; ``None`` if it does not."""
        if self.weight.units * size.units > MAX_WORK:
            most = MAX_WORK // self.weight.units
            return f"The input is too large for the operation's schema, which can validate {most:,} values"
        if self.weight.has_patterns and size.chars > MAX_MATCHED_CHARS:
            return (
                f"The input has more than {MAX_MATCHED_CHARS:,} characters, and the operation's schema has a"
                " pattern: use a file instead"
            )
        return None


def compiled(schema: Mapping[str, Any]) -> CompiledSchema:
    """Return a schema compiled; the latest ones are kept.

    :raises BadSchema: it cannot be used; says where and why
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
    """Return the engine's validator.

    :param registry: where references beyond the schema lead; nothing is ever fetched
    :param mask: stands for the value in error messages
    :raises BadSchema: it cannot be used; says where and why
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
    except (ValueError, OverflowError) as error:  # numbers or nesting that the engine does not take
        raise BadSchema(str(error)[:200]) from None


def _check_pattern(path: str, pattern: str) -> None:
    try:
        new_validator({"pattern": pattern})
    except BadSchema:
        raise BadSchema(
            f"{path}: the pattern {quoted(pattern)} cannot be used. It must be a regular expression without"
            " lookaround, back-references and \\Z; for long repetitions use maxLength"
        ) from None
