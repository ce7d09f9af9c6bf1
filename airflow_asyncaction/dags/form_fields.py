# SPDX-License-Identifier: Apache-2.0
"""Form fields: rewrites JSON Schemas into equivalent ones that Airflow's trigger form shows properly.

The form chooses a field by ``type``, ``enum`` and ``format`` at the top of a Param's schema, and by the type
of an array's items. It does not follow ``$ref`` or read ``anyOf``. Without any of these keywords, it shows a
text field, which sends a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_asyncaction.protocol.operations import Schema

_NULL, _ARRAY, _STRING, _NUMBER, _INTEGER = "null", "array", "string", "number", "integer"
# Of several types, the form takes the first one if there is an enum. Otherwise one field serves them all.
_TYPES = (_STRING, _INTEGER, _NUMBER, "boolean", "object", _ARRAY, _NULL)
_DEFS, _REF, _ENUM, _CONST, _ITEMS, _TYPE = "$defs", "$ref", "enum", "const", "items", "type"
_REFERENCES = (_REF, "$dynamicRef")
_UNIONS = ("anyOf", "oneOf")
# These keywords apply to values of any type, null included.
_OF_ANY_TYPE = frozenset({*_UNIONS, _REF, "$dynamicRef", "allOf", "not", "if", "then", "else"})
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "discriminator", _DEFS}
)
_MAX_DEPTH = 8
"""How many references are followed in a row, since they may be circular."""


def to_form_field(schema: Schema) -> Schema:
    """Return a schema that accepts the same values, and for which the form has a suitable field.

    :param schema: the schema of one value, with the definitions that it refers to in ``$defs``
    """
    field = _add_type(_resolve(schema, schema), schema)
    if {*_as_list(field[_TYPE])} - {_NULL} == {_ARRAY}:
        field = _add_item_type(field, schema)
    inside = {key: value for key, value in field.items() if key != _DEFS}
    return field if any(f"'{name}'" in str(inside) for name in _REFERENCES) else inside


def _add_item_type(field: Schema, root: Schema) -> Schema:
    """Add a type to the items of an array. Without one, the form treats them as strings."""
    declared = field.get(_ITEMS, True)
    if declared is False:
        return field
    items = _add_type(_resolve({} if declared is True else declared, root), root)
    choices = items.get(_ENUM)
    if choices and items[_TYPE] == _STRING:
        return {"examples": choices, **field, _ITEMS: items}  # a multi-select field
    return {**field, _ITEMS: items}


def _add_type(schema: Schema, root: Schema) -> Schema:
    """Add the types that a schema accepts. May add too many: the other keywords reject those."""
    types = _types_of(schema, root, _MAX_DEPTH)
    named = [name for name in _TYPES if name in types and not (name == _INTEGER and _NUMBER in types)]
    if not named:  # it accepts nothing
        return {_TYPE: list(_TYPES), **schema}
    return {**schema, _TYPE: named[0] if len(named) == 1 else named}


def _resolve(schema: Schema, root: Schema) -> Schema:
    """Replace a reference, or a union with a single branch besides null, by its target."""
    for _ in range(_MAX_DEPTH):
        inner = _resolve_once(schema, root)
        if inner is None:
            break
        schema = inner
    if _CONST in schema and _ENUM not in schema:
        rest = {key: value for key, value in schema.items() if key != _CONST}
        return {**rest, _ENUM: [schema[_CONST]]}
    return schema


def _resolve_once(schema: Schema, root: Schema) -> Schema | None:
    """Merge the target of a reference, or the only branch, into a schema. Return ``None`` without either."""
    keyword = next((name for name in (_REF, *_UNIONS) if name in schema), None)
    rest = {key: value for key, value in schema.items() if key != keyword}
    if keyword is None or not rest.keys() <= _ANNOTATIONS:
        return None
    part = _target(schema[_REF], root) if keyword == _REF else _only_branch(schema[keyword], root)
    if not isinstance(part, Mapping) or "$id" in part:
        return None
    keywords = {key: value for key, value in part.items() if key not in _ANNOTATIONS}
    return {**rest, **keywords}


def _only_branch(branches: list[Any], root: Schema) -> Schema | None:
    """Return the only branch of a union. If null is another branch, make the result nullable."""
    others = [branch for branch in branches if not _is_null(branch)]
    if len(others) != 1 or not isinstance(others[0], Mapping):
        return None
    branch = _resolve(dict(others[0]), root)
    if len(branches) == 1:
        return branch
    types = _types_of(branch, root, _MAX_DEPTH)
    if _OF_ANY_TYPE & branch.keys() or _NULL in types:
        return None
    nullable = {**branch, _TYPE: [*(name for name in _TYPES if name in types), _NULL]}
    return {**nullable, _ENUM: [*branch[_ENUM], None]} if _ENUM in branch else nullable


def _is_null(branch: Any) -> bool:
    """Return whether a branch accepts null and nothing else."""
    keywords = branch.keys() - _ANNOTATIONS if isinstance(branch, Mapping) else set()
    return keywords <= {_TYPE, _CONST, _ENUM} and _types_of(branch, branch, 1) == {_NULL}


def _types_of(schema: Any, root: Schema, steps: int) -> set[str]:
    """Return the types that a schema may accept: too many if it is complex, but never too few."""
    types = set(_TYPES)
    if schema is False:
        return set()
    if not isinstance(schema, Mapping) or steps == 0 or ("$id" in schema and schema is not root):
        return types  # unknown: any
    if _TYPE in schema:
        types &= {*_as_list(schema[_TYPE]), *([_INTEGER] if _NUMBER in _as_list(schema[_TYPE]) else [])}
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


def _as_list(types: Any) -> list[str]:
    return types if isinstance(types, list) else [types]


def _target(reference: Any, root: Schema) -> Any:
    """Return the target of a reference within the schema, or ``None`` if it points elsewhere."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        if not isinstance(found, Mapping) or ("$id" in found and found is not root):
            return None
        found = found.get(name.replace("~1", "/").replace("~0", "~"))
    return found
