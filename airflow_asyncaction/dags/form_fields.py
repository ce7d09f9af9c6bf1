# SPDX-License-Identifier: Apache-2.0
"""JSON Schemas written so that Airflow's trigger form has fitting fields for them. They mean the same.

The form chooses a field by ``type``, ``enum`` and ``format`` at the top of a Param's schema, and by the type
of an array's items. It follows no ``$ref`` and does not look into ``anyOf``: where it finds nothing, the
field is one for text, which sends a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_asyncaction.protocol.operations import Schema

_NULL, _ARRAY, _STRING, _NUMBER, _INTEGER = "null", "array", "string", "number", "integer"
# The form takes the first of several types where there is an enum, and else has one field for all of them.
_TYPES = (_STRING, _INTEGER, _NUMBER, "boolean", "object", _ARRAY, _NULL)
_DEFS, _REF, _ENUM, _CONST, _ITEMS, _TYPE = "$defs", "$ref", "enum", "const", "items", "type"
_REFERENCES = (_REF, "$dynamicRef")
_UNIONS = ("anyOf", "oneOf")
# These are about values of any type, null as well.
_OF_ANY_TYPE = frozenset({*_UNIONS, _REF, "$dynamicRef", "allOf", "not", "if", "then", "else"})
_SAYS_NOTHING = frozenset(
    {"title", "description", "default", "examples", "deprecated", "discriminator", _DEFS}
)
_MOST_STEPS = 8
"""So many references are followed in a row: they may lead back to themselves, by several ways."""


def as_field(schema: Schema) -> Schema:
    """Return a schema that takes the same values, and for which the form has a fitting field.

    :param schema: of one value; what it refers to is in its ``$defs``
    """
    field = _typed(_flat(schema, schema), schema)
    if {_ARRAY} <= {*_listed(field[_TYPE])} <= {_ARRAY, _NULL}:
        field = _with_items(field, schema)
    inside = {key: value for key, value in field.items() if key != _DEFS}
    return field if any(f"'{name}'" in str(inside) for name in _REFERENCES) else inside


def _with_items(field: Schema, root: Schema) -> Schema:
    """Return a schema of arrays whose items have a type: without one, the form takes them for strings."""
    given = field.get(_ITEMS, True)
    if given is False:
        return field
    items = _typed(_flat({} if given is True else given, root), root)
    choices = items.get(_ENUM)
    if choices and items[_TYPE] == _STRING:
        return {"examples": choices, **field, _ITEMS: items}  # several of these can be chosen
    return {**field, _ITEMS: items}


def _typed(schema: Schema, root: Schema) -> Schema:
    """Return a schema that says which types it takes, or more of them: then the rest of it refuses those."""
    types = _types_of(schema, root, _MOST_STEPS)
    named = [name for name in _TYPES if name in types and not (name == _INTEGER and _NUMBER in types)]
    if not named:  # it takes nothing
        return {_TYPE: list(_TYPES), **schema}
    return {**schema, _TYPE: named[0] if len(named) == 1 else named}


def _flat(schema: Schema, root: Schema) -> Schema:
    """Return a schema with what a reference, or the one branch beside null, says in its place."""
    for _ in range(_MOST_STEPS):
        inner = _only_part(schema, root)
        if inner is None:
            break
        schema = inner
    if _CONST in schema and _ENUM not in schema:
        rest = {key: value for key, value in schema.items() if key != _CONST}
        return {**rest, _ENUM: [schema[_CONST]]}
    return schema


def _only_part(schema: Schema, root: Schema) -> Schema | None:
    """Return a schema with its reference or its one branch taken in; ``None`` if there is no such."""
    keyword = next((name for name in (_REF, *_UNIONS) if name in schema), None)
    rest = {key: value for key, value in schema.items() if key != keyword}
    if keyword is None or not rest.keys() <= _SAYS_NOTHING:
        return None
    part = _target(schema[_REF], root) if keyword == _REF else _only_branch(schema[keyword], root)
    if not isinstance(part, Mapping) or "$id" in part:
        return None
    said = {key: value for key, value in part.items() if key not in _SAYS_NOTHING}
    return {**rest, **said}


def _only_branch(branches: list[Any], root: Schema) -> Schema | None:
    """Return the one branch of a union, or the one beside null, which may then be null as well."""
    others = [branch for branch in branches if not _is_null(branch)]
    if len(others) != 1 or not isinstance(others[0], Mapping):
        return None
    branch = _flat(dict(others[0]), root)
    if len(branches) == 1:
        return branch
    types = _types_of(branch, root, _MOST_STEPS)
    if _OF_ANY_TYPE & branch.keys() or _NULL in types:
        return None
    nullable = {**branch, _TYPE: [*(name for name in _TYPES if name in types), _NULL]}
    return {**nullable, _ENUM: [*branch[_ENUM], None]} if _ENUM in branch else nullable


def _is_null(branch: Any) -> bool:
    """Tell whether a branch takes null, and nothing else."""
    said = branch.keys() - _SAYS_NOTHING if isinstance(branch, Mapping) else set()
    return said <= {_TYPE, _CONST, _ENUM} and _types_of(branch, branch, 1) == {_NULL}


def _types_of(schema: Any, root: Schema, steps: int) -> set[str]:
    """Return the types that a schema may take; too many where it is not simple, and never too few."""
    types = set(_TYPES)
    if schema is False:
        return set()
    if not isinstance(schema, Mapping) or steps == 0 or ("$id" in schema and schema is not root):
        return types  # whatever they are
    if _TYPE in schema:
        types &= {*_listed(schema[_TYPE]), *([_INTEGER] if _NUMBER in _listed(schema[_TYPE]) else [])}
    if _CONST in schema:
        types &= _types_of_value(schema[_CONST])
    if isinstance(schema.get(_ENUM), list):
        types &= {name for value in schema[_ENUM] for name in _types_of_value(value)}
    if _REF in schema and (target := _target(schema[_REF], root)) is not None:
        types &= _types_of(target, root, steps - 1)
    for union in _UNIONS:
        if isinstance(schema.get(union), list):
            types &= {name for branch in schema[union] for name in _types_of(branch, root, steps - 1)}
    for part in schema.get("allOf") or ():
        types &= _types_of(part, root, steps - 1)
    return types


def _types_of_value(value: Any) -> set[str]:
    if value is None:
        return {_NULL}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {_INTEGER, _NUMBER} if isinstance(value, int) or value.is_integer() else {_NUMBER}
    if isinstance(value, str):
        return {_STRING}
    return {_ARRAY} if isinstance(value, list) else {"object"}


def _listed(types: Any) -> list[str]:
    return types if isinstance(types, list) else [types]


def _target(reference: Any, root: Schema) -> Any:
    """Return what a reference into the schema itself leads to; ``None`` if it leads elsewhere."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        if not isinstance(found, Mapping) or ("$id" in found and found is not root):
            return None
        found = found.get(name.replace("~1", "/").replace("~0", "~"))
    return found
