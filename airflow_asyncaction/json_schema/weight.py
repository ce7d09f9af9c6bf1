# SPDX-License-Identifier: Apache-2.0
"""Weight of a schema: its number of keywords with all references expanded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin

from airflow_asyncaction.json_schema.limits import Path, json_path

MAX_WEIGHT = 10_000
MAX_PATTERNS = 200
_MAX_DEPTH = 80
_QUOTED_CHARS = 100
_UNITS_OF_FRACTION = 200
"""Weight of a multipleOf that is not an integer: the engine divides with unlimited precision."""

BY_NAME = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)
"""Keywords whose value maps names to schemas."""
_DEFINITIONS = frozenset({"$defs", "definitions"})
_DATA = frozenset({"const", "default", "enum", "examples"})
REFERENCES = ("$ref", "$dynamicRef")


class BadSchema(ValueError):
    """A schema is not supported. The message says where and why."""


@dataclass(frozen=True)
class Weight:
    """Cost of validating with a schema.

    :param units: number of keywords with references expanded. Recursive references count once: their results
        are cached.
    :param patterns: JSON paths and patterns
    :param has_patterns: whether there is a pattern, including those that only a reference reaches
    """

    units: int
    patterns: tuple[tuple[str, str], ...]
    has_patterns: bool


def weigh(schema: Mapping[str, Any]) -> Weight:
    """Weigh a schema.

    :raises BadSchema: it is too heavy, or a reference has no target
    """
    patterns = tuple((json_path(path), pattern) for path, pattern in _patterns(schema))
    if len(patterns) > MAX_PATTERNS:
        raise BadSchema(f"it has more than {MAX_PATTERNS} patterns")
    scale = _Scale(schema)
    units = scale.weigh(schema, schema, 0)
    if units > MAX_WEIGHT:
        raise BadSchema(f"it has more than {MAX_WEIGHT:,} keywords, with references expanded")
    return Weight(units, patterns, scale.has_patterns)


def quote_value(value: Any) -> str:
    """Return a value for an error message, truncated."""
    text = repr(value[: _QUOTED_CHARS + 1] if isinstance(value, str) else value)
    return text if len(text) <= _QUOTED_CHARS + 2 else f"{text[:_QUOTED_CHARS]}...'"


def list_subschemas(schema: Any) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield a schema and all of its subschemas, with their paths."""
    waiting: list[tuple[Path, Any]] = [((), schema)]
    while waiting:
        path, each = waiting.pop()
        if len(path) > _MAX_DEPTH:
            raise BadSchema(f"it is nested deeper than {_MAX_DEPTH} levels")
        if isinstance(each, list):
            waiting.extend(((*path, index), one) for index, one in enumerate(each))
        elif isinstance(each, Mapping):
            yield path, each
            for keyword, value in each.items():
                if keyword in BY_NAME and isinstance(value, Mapping):
                    waiting.extend(((*path, keyword, name), one) for name, one in value.items())
                elif keyword not in _DATA:
                    waiting.append(((*path, keyword), value))


def _patterns(schema: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for path, each in list_subschemas(schema):
        if isinstance(each.get("pattern"), str):
            yield (*path, "pattern"), each["pattern"]
        by_pattern = each.get("patternProperties")
        if isinstance(by_pattern, Mapping):
            yield from (((*path, "patternProperties"), str(pattern)) for pattern in by_pattern)


class _Scale:
    """Adds up weights. The target of several references is weighed once and counted each time."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.has_patterns = False
        self._known: dict[int, int] = {}
        self._by_id: dict[str, Mapping[str, Any]] = {}
        self._by_anchor: dict[str, list[Mapping[str, Any]]] = {}
        for _, each in list_subschemas(schema):
            if isinstance(each.get("$id"), str):
                self._by_id[each["$id"].rstrip("#")] = each
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(each.get(keyword), str):
                    self._by_anchor.setdefault(each[keyword], []).append(each)

    def weigh(self, schema: Any, base: Mapping[str, Any], depth: int) -> int:
        """Weigh a schema or a list of schemas.

        :param base: schema that its references are relative to
        """
        if isinstance(schema, list):
            return sum(self.weigh(each, base, depth) for each in schema)
        if not isinstance(schema, Mapping):
            return 1
        if depth > _MAX_DEPTH:
            raise BadSchema(f"its references are nested deeper than {_MAX_DEPTH} levels")
        known = self._known.get(id(schema))
        if known is not None:
            return known
        self._known[id(schema)] = 1  # it may refer to itself
        self.has_patterns |= "pattern" in schema or "patternProperties" in schema
        base = schema if isinstance(schema.get("$id"), str) else base
        units = 1 + sum(self._keyword(key, value, base, depth + 1) for key, value in schema.items())
        self._known[id(schema)] = min(units, MAX_WEIGHT + 1)
        return self._known[id(schema)]

    def _keyword(self, keyword: str, value: Any, base: Mapping[str, Any], depth: int) -> int:
        if keyword in _DATA or keyword in _DEFINITIONS:
            return _count(value) if keyword in ("const", "enum") else 0
        if keyword in REFERENCES and isinstance(value, str):
            return 1 + max(self.weigh(each, new_base, depth) for each, new_base in self._targets(value, base))
        if keyword == "multipleOf":
            return 1 if isinstance(value, int) else _UNITS_OF_FRACTION
        if keyword in BY_NAME and isinstance(value, Mapping):
            return sum(self.weigh(each, base, depth) for each in value.values())
        return self.weigh(value, base, depth)

    def _targets(self, reference: str, base: Mapping[str, Any]) -> list[tuple[Any, Mapping[str, Any]]]:
        url, _, fragment = reference.partition("#")
        resource = self._resource(url, base)
        if fragment and not fragment.startswith("/"):
            found = [(each, base) for each in self._by_anchor.get(fragment, ())]
        else:
            found = (
                []
                if resource is None
                else [(each, resource) for each in _resolve_pointer(resource, fragment)]
            )
        if not found:
            raise BadSchema(f"it refers to {quote_value(reference)}, which does not exist")
        return found

    def _resource(self, url: str, base: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not url:
            return base
        absolute = urljoin(str(base.get("$id", "")), url)
        return self._by_id.get(url) or self._by_id.get(absolute)


def _resolve_pointer(resource: Mapping[str, Any], pointer: str) -> list[Any]:
    """Return the target of a JSON pointer, if it exists."""
    found: Any = resource
    for part in pointer.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            return []
    return [found]


def _count(value: Any) -> int:
    """Count a value and its nested values."""
    count, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        count += 1
        if isinstance(each, (dict, list)):
            waiting.extend(each.values() if isinstance(each, dict) else each)
    return count
