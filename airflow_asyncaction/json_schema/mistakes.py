# SPDX-License-Identifier: Apache-2.0
"""Mistakes: finds the first mistake in an invalid input, and what the schema expects there.

The search descends from the root, at each schema to the first subschema that rejects its value. It validates
once per subschema and value on its way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote

from airflow.providers.common.compat.sdk import redact
from jsonschema_rs import Draft202012, Draft202012Validator, Registry, ValidationError

from airflow_asyncaction.json_schema.engine import CompiledSchema, new_validator
from airflow_asyncaction.json_schema.limits import Path, TooLarge, json_path, measure
from airflow_asyncaction.json_schema.weight import REFERENCES

_MAX_MESSAGE_CHARS = 500
_MAX_QUOTED_CHARS = 40
_MAX_STEPS = 300
_MAX_COMPILED = 200_000
"""Maximum number of keywords compiled to find a mistake. Compiling them takes at most half a second."""
_CHARS_PER_KEYWORD = 16
_INPUT = "urn:input"

_ASSERTIONS = frozenset(
    {
        *("type", "enum", "const", "format", "pattern", "minLength", "maxLength"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minItems", "maxItems", "uniqueItems"),
        *("required", "minProperties", "maxProperties", "dependentRequired"),
    }
)
"""Keywords without subschemas."""
_BRANCHES = ("anyOf", "oneOf")
_WITHOUT_DETAIL = (
    *_BRANCHES,
    *("not", "contains", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "$ref", "$dynamicRef"),
)


@dataclass(frozen=True)
class Mistake:
    """Mistake in an input.

    :param path: JSON path such as ``$.days[0]``
    :param message: what the schema expects. It only quotes short values, and no values named like secrets.
    """

    path: str
    message: str


def find_mistake(value: Any, schema: CompiledSchema | None) -> Mistake | None:
    """Return the first mistake in an input; ``None`` if it is valid.

    :param schema: ``None`` to check the limits only
    """
    try:
        size = measure(value)
    except TooLarge as error:
        return Mistake(error.path, str(error))
    if schema is None:
        return None
    excess = schema.explain_excess(size)
    if excess is not None:
        return Mistake("$", excess)
    if schema.is_valid(value):
        return None
    return _Search(schema).find(value)


@dataclass(frozen=True)
class _Place:
    """Value, and the subschema that it is validated against.

    :param pointer: pointer to the subschema, a URI fragment
    """

    pointer: str
    schema: Any
    value: Any
    path: Path

    def descend(self, *names: str | int, value: Any = None, at: Path | None = None) -> _Place:
        """Return a subschema, with a nested value if a path is given."""
        schema, pointer = self.schema, self.pointer
        for name in names:
            schema = schema[name]
            pointer += "/" + quote(str(name).replace("~", "~0").replace("/", "~1"))
        if at is None:
            return _Place(pointer, schema, self.value, self.path)
        return _Place(pointer, schema, value, (*self.path, *at))


class _Search:
    def __init__(self, schema: CompiledSchema) -> None:
        self._root = {key: value for key, value in schema.schema.items() if key != "$id"}
        self._whole = schema.weight.units
        self._may_compile = _MAX_COMPILED
        self._validators: dict[str, Draft202012Validator] = {}

    def find(self, value: Any) -> Mistake:
        place = _Place("#", self._root, value, ())
        try:
            for _ in range(_MAX_STEPS):
                message = self._check_keywords(place)
                if message is not None:
                    return _mistake(place, message)
                next_ = next(
                    (each for each in self._list_subschemas(place) if not self._is_valid(each)), None
                )
                if next_ is None:
                    break
                place = next_
        except (ValueError, LookupError, TypeError, AttributeError):
            pass  # this subschema only works in its context: report the mistake here
        return _mistake(place, self._describe_generally(place))

    @cached_property
    def _registry(self) -> Registry:
        return Registry([(_INPUT, self._root)], draft=Draft202012)

    def _is_valid(self, place: _Place) -> bool:
        if isinstance(place.schema, Mapping) and place.schema.keys() == {"$ref"}:
            place = self._resolve(place)
        return self._validator({"$ref": f"{_INPUT}{place.pointer}"}, place.schema).is_valid(place.value)

    def _validator(self, schema: Mapping[str, Any], refers_to: Any = None) -> Draft202012Validator:
        """Compile a validator, or return it from the cache.

        :raises LookupError: the limit of compiled keywords is reached
        """
        text = json.dumps(schema)
        if text not in self._validators:
            referred = json.dumps(refers_to)
            self._may_compile -= 1 + len(referred) // _CHARS_PER_KEYWORD
            if any(keyword in referred for keyword in REFERENCES):
                self._may_compile -= self._whole
            if self._may_compile < 0:
                raise LookupError(text)
            self._validators[text] = new_validator(schema, registry=self._registry)
        return self._validators[text]

    def _check_keywords(self, place: _Place) -> str | None:
        """Validate a value with the keywords that have no subschemas. Return the error message, if any."""
        schema, mask = place.schema, _name_value(place.value, place.path)
        if schema is False:
            return f"{mask} is not allowed"
        if not isinstance(schema, Mapping):
            return None
        own = {key: value for key, value in schema.items() if key in _ASSERTIONS}
        if schema.get("additionalProperties") is False:
            for keyword in ("properties", "patternProperties"):
                own[keyword] = dict.fromkeys(schema.get(keyword, {}), True)
            own["additionalProperties"] = False
        try:
            new_validator(own, mask=mask).validate(place.value)
        except ValidationError as error:
            return error.message
        return None

    def _list_subschemas(self, place: _Place) -> Iterator[_Place]:
        """Yield the subschemas that a value must match, as far as they can be checked separately."""
        schema, value = place.schema, place.value
        if not isinstance(schema, Mapping):
            return
        if "$ref" in schema:
            yield self._resolve(place)
        if isinstance(value, dict):
            yield from self._list_object_subschemas(place)
        if isinstance(value, (list, tuple)):
            yield from _list_item_subschemas(place)
        for index in range(len(schema.get("allOf", ()))):
            yield place.descend("allOf", index)
        if "if" in schema:
            branch = "then" if self._is_valid(place.descend("if")) else "else"
            if branch in schema:
                yield place.descend(branch)
        for keyword in _BRANCHES:
            yield from self._only_branch(place, keyword)

    def _list_object_subschemas(self, place: _Place) -> Iterator[_Place]:
        schema, others = place.schema, dict(place.value)
        for name in schema.get("properties", {}):
            if name in place.value:
                yield place.descend("properties", name, value=others.pop(name), at=(name,))
        for pattern in schema.get("patternProperties", {}):
            matcher = self._validator({"pattern": pattern})
            for name in filter(matcher.is_valid, place.value):
                others.pop(name, None)
                yield place.descend("patternProperties", pattern, value=place.value[name], at=(name,))
        if isinstance(schema.get("additionalProperties"), Mapping):
            for name, value in others.items():
                yield place.descend("additionalProperties", value=value, at=(name,))
        for name in schema.get("dependentSchemas", {}):
            if name in place.value:
                yield place.descend("dependentSchemas", name)

    def _only_branch(self, place: _Place, keyword: str) -> Iterator[_Place]:
        """Yield the intended branch, if only one branch accepts values of this type."""
        parts = [place.descend(keyword, index) for index in range(len(place.schema.get(keyword, ())))]
        if any(map(self._is_valid, parts)):
            return
        meant = [part for part in parts if self._is_for_type(part)]
        if len(meant) == 1:
            yield meant[0]

    def _is_for_type(self, place: _Place) -> bool:
        for _ in range(_MAX_STEPS):
            if not isinstance(place.schema, Mapping):
                return place.schema is True
            if "type" in place.schema or "$ref" not in place.schema:
                own = {key: place.schema[key] for key in ("type", "const") if key in place.schema}
                return self._validator(own).is_valid(place.value)
            place = self._resolve(place)
        return False

    def _resolve(self, place: _Place) -> _Place:
        """Resolve the ``$ref`` of a schema.

        :raises LookupError: it is not a JSON pointer within the schema
        """
        reference = place.schema["$ref"]
        if reference != "#" and not reference.startswith("#/"):
            raise LookupError(reference)
        found: Any = self._root
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            found = found[int(name) if isinstance(found, list) else name]
        return _Place(reference, found, place.value, place.path)

    def _describe_generally(self, place: _Place) -> str:
        """Return the message for a mistake without details."""
        schema = place.schema if isinstance(place.schema, Mapping) else {}
        keywords = ", ".join(keyword for keyword in _WITHOUT_DETAIL if keyword in schema)
        message = f"{_name_value(place.value, place.path)} is not valid under the schema"
        return f"{message}: see its {keywords}" if keywords else message


def _list_item_subschemas(place: _Place) -> Iterator[_Place]:
    schema, value = place.schema, place.value
    before = len(schema.get("prefixItems", ()))
    for index, item in enumerate(value[:before]):
        yield place.descend("prefixItems", index, value=item, at=(index,))
    if "items" in schema:
        for index in range(before, len(value)):
            yield place.descend("items", value=value[index], at=(index,))


def _mistake(place: _Place, message: str) -> Mistake:
    return Mistake(json_path(place.path), message[:_MAX_MESSAGE_CHARS])


def _name_value(value: Any, path: Path) -> str:
    """Return a value for an error message, or a placeholder if it is long or secret."""
    if isinstance(value, dict):
        return "The object"
    if isinstance(value, (list, tuple)):
        return "The list"
    text = json.dumps(value, ensure_ascii=False)
    names = [key for key in path if isinstance(key, str)]
    if len(text) > _MAX_QUOTED_CHARS or any(redact(text, name) != text for name in names):
        return "The value"
    return text
