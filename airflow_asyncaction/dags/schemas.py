# SPDX-License-Identifier: Apache-2.0
"""JSON Schemas of operations: inferred from functions, turned into Params, and applied to a run's conf."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any, get_type_hints

from airflow.sdk import Param
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from airflow_asyncaction.dags.form_fields import to_form_field
from airflow_asyncaction.json_schema import BadSchema, compile_schema
from airflow_asyncaction.json_schema.dialect import with_dialect
from airflow_asyncaction.protocol.operations import Schema

_DEFS = "$defs"
_REF = "$ref"
_INPUT = "input"
_NULL = "null"
_JOB = "job"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_input_schema(schema: Any, *, what: str) -> Schema:
    """Check the input schema of an operation.

    :param what: the schema's name in error messages
    :raises ValueError: it is not a JSON Schema of an object, or cannot be validated in linear time
    """
    try:
        compile_schema(schema)
    except BadSchema as error:
        raise ValueError(f"{what} is not a supported JSON Schema: {error}") from None
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise ValueError(f'{what} must be the schema of an object ("type": "object")')
    if not isinstance(schema.get("properties", {}), Mapping):
        raise ValueError(f"{what}: properties must be an object")
    return {"type": "object", **schema}


def build_params(schema: Schema) -> dict[str, Param]:
    """Return the Params with which Airflow shows a trigger form for a schema and validates a run's conf.

    A property that is not required and has no default may be left empty in the form.
    """
    required = set(schema.get("required", ()))
    return {
        name: _build_param(_detach(part, schema), is_required=name in required)
        for name, part in schema.get("properties", {}).items()
    }


def build_input(conf: Mapping[str, Any] | None, schema: Schema) -> dict[str, Any]:
    """Return an operation's input: the run's conf and defaults, without fields left empty in a form."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    filled = {
        name: value
        for name, value in (conf or {}).items()
        if value is not None or name not in properties or _accepts_null(_detach(properties[name], schema))
    }
    defaults = {
        name: part["default"]
        for name, part in properties.items()
        if isinstance(part, Mapping) and "default" in part
    }
    return {**defaults, **filled}


def infer_input_schema(function: Callable[..., Any]) -> Schema:
    """Return the schema of a function's parameters, except ``job``, from its annotations.

    :raises TypeError: a parameter cannot be passed by name, or its type has no JSON Schema
    """
    hints = get_type_hints(function, include_extras=True)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == _JOB:
            continue
        if parameter.kind not in _NAMED:
            raise TypeError(
                f"{function.__name__} takes {parameter}: an operation's arguments must have names"
            )
        properties[name] = _without_class_title(
            _infer_schema(hints.get(name, Any), f"{function.__name__}({name})"), hints.get(name)
        )
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        else:
            adapter = TypeAdapter[Any](hints.get(name, Any))
            properties[name]["default"] = adapter.dump_python(parameter.default, mode="json")
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return _hoist_definitions(schema)


def infer_output_schema(function: Callable[..., Any]) -> Schema | None:
    """Return the schema of a function's return annotation, if it has one."""
    hint = get_type_hints(function, include_extras=True).get("return", Any)
    return None if hint is Any else _infer_schema(hint, f"The return type of {function.__name__}")


def check_argument_names(function: Callable[..., Any], names: Collection[str]) -> None:
    """Check that a function has all named arguments. Airflow would silently drop others.

    :raises ValueError: the function lacks an argument, or one is ``job``, which users must not set
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    known = [name for name, each in parameters.items() if each.kind in _NAMED and name != _JOB]
    for name in names:
        if name == _JOB:
            raise ValueError(
                f"{_JOB!r} cannot be an argument of an operation: the function gets the job there"
            )
        if name not in known and not takes_any:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise ValueError(f"The operation's function has no argument {name!r}: {hint}")


def convert_arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert JSON values to the types that a function's annotations name, such as dates.

    :raises ValueError: a value is of another type, or the function lacks an argument
    """
    check_argument_names(function, values)
    hints = get_type_hints(function, include_extras=True)
    return {
        name: TypeAdapter[Any](hints.get(name, Any)).validate_python(value) for name, value in values.items()
    }


def _infer_schema(hint: Any, what: str) -> Schema:
    try:
        return TypeAdapter[Any](hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError, ValueError) as error:
        raise TypeError(f"{what} has no JSON Schema: {str(error).splitlines()[0]}") from None


def _without_class_title(schema: Schema, hint: Any) -> Schema:
    """Remove the class name from an argument's schema: forms would show it instead of the argument's name."""
    if schema.get("title") == getattr(hint, "__name__", None):
        schema.pop("title", None)
    return schema


def _hoist_definitions(schema: Schema) -> Schema:
    """Move the definitions of properties to the top of the schema, where their references point."""
    defs: dict[str, Any] = {}
    for part in schema["properties"].values():
        defs.update(part.pop(_DEFS, {}))
    return {**schema, _DEFS: defs} if defs else schema


def _build_param(part: Schema, *, is_required: bool) -> Param:
    description = part.get("description")
    schema = {key: value for key, value in part.items() if key not in ("default", "description")}
    value = {"default": part["default"]} if "default" in part else {}
    if not value and not is_required:
        schema, value = _or_null(schema), {"default": None}
    return Param(**value, description=description, schema=with_dialect(to_form_field(schema)))


def _or_null(schema: Schema) -> Schema:
    if _accepts_null(schema):
        return schema
    outside = {key: schema[key] for key in (_DEFS, "title") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    return {**outside, "anyOf": [inside, {"type": _NULL}]}


def _accepts_null(schema: Schema) -> bool:
    try:
        return compile_schema(schema).is_valid(None)
    except BadSchema:
        return False


def _detach(part: Any, schema: Schema) -> Schema:
    """Return a property's schema, complete in itself. References embed the whole schema."""
    own: Schema = dict(part) if isinstance(part, Mapping) else {}
    if f'"{_REF}"' not in json.dumps(own):
        return own
    whole = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    return {**_point_to_definition(own), _DEFS: {_INPUT: _point_to_definition(whole)}}


def _point_to_definition(part: Any) -> Any:
    """Return a part of a schema with its references to the whole rewritten, now that it is a definition."""
    if isinstance(part, list):
        return [_point_to_definition(each) for each in part]
    if not isinstance(part, Mapping) or isinstance(part.get("$id"), str):  # with an $id, they are relative
        return part
    moved = {key: _point_to_definition(value) for key, value in part.items()}
    reference = moved.get(_REF)
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved[_REF] = f"#/{_DEFS}/{_INPUT}{reference.removeprefix('#')}"
    return moved
