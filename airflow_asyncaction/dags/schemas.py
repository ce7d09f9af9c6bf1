# SPDX-License-Identifier: Apache-2.0
"""An operation's JSON Schema as a Dag's Params, and a run's conf as the operation's input."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any, get_type_hints

from airflow.sdk import Param
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from airflow_asyncaction.dags.form_fields import as_field
from airflow_asyncaction.json_schema import BadSchema, compile_schema
from airflow_asyncaction.json_schema.dialect import with_dialect
from airflow_asyncaction.protocol.operations import Schema

_DEFS = "$defs"
_REF = "$ref"
_INPUT = "input"
_NULL = "null"
_JOB = "job"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def checked(schema: Any, *, what: str) -> Schema:
    """Return the schema of an operation's input.

    :param what: the schema's name in an error
    :raises ValueError: it is no JSON Schema, is one that takes more than linear time, or is not of an object;
        says where and why
    """
    try:
        compile_schema(schema)
    except BadSchema as error:
        raise ValueError(f"{what} is no JSON Schema that can be used: {error}") from None
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise ValueError(f'{what} must be the schema of an object ("type": "object"): arguments have names')
    if not isinstance(schema.get("properties", {}), Mapping):
        raise ValueError(f"{what}: properties must be an object")
    return {"type": "object", **schema}


def params_of(schema: Schema) -> dict[str, Param]:
    """Return the Params by which Airflow shows its form for a schema, and checks a run's conf.

    What is neither required nor has a default may be left empty in the form.
    """
    required = set(schema.get("required", ()))
    params = {
        name: _param(_alone(part, schema), is_required=name in required)
        for name, part in schema.get("properties", {}).items()
    }
    for param in params.values():
        param.schema = with_dialect(param.schema)
    return params


def input_of(conf: Mapping[str, Any] | None, schema: Schema) -> dict[str, Any]:
    """Return an operation's input: a run's conf, and defaults. What was left empty in a form is not there."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    given = {
        name: value
        for name, value in (conf or {}).items()
        if value is not None or name not in properties or _takes_null(_alone(properties[name], schema))
    }
    defaults = {
        name: part["default"]
        for name, part in properties.items()
        if isinstance(part, Mapping) and "default" in part
    }
    return {**defaults, **given}


def input_schema_of(function: Callable[..., Any]) -> Schema:
    """Return the schema of what a function takes, by its annotations; ``job`` is not part of it.

    :raises TypeError: it takes what has no name, or what JSON has no schema for
    """
    hints = get_type_hints(function, include_extras=True)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == _JOB:
            continue
        if parameter.kind not in _NAMED:
            raise TypeError(f"{function.__name__} takes {parameter}: an operation's arguments have names")
        properties[name] = _unnamed(
            _schema_of(hints.get(name, Any), f"{function.__name__}({name})"), hints.get(name)
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
    return _lifted(schema)


def output_schema_of(function: Callable[..., Any]) -> Schema | None:
    """Return the schema of what a function returns, if it is annotated."""
    hint = get_type_hints(function, include_extras=True).get("return", Any)
    return None if hint is Any else _schema_of(hint, f"what {function.__name__} returns")


def check_names(function: Callable[..., Any], given: Collection[str]) -> None:
    """Refuse arguments that a function does not have; calls by Airflow drop them.

    :raises ValueError: there is one, or it is ``job``, which is not for whoever launches an operation
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    known = [name for name, each in parameters.items() if each.kind in _NAMED and name != _JOB]
    for name in given:
        if name == _JOB:
            raise ValueError(f"{_JOB!r} cannot be an argument of an operation: its function is given the job")
        if name not in known and not takes_any:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
            raise ValueError(f"The operation's function has no argument {name!r}: {hint}")


def as_annotated(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's arguments as its annotations say: a date, for example, rather than a string.

    :raises ValueError: one is of another type, or the function has none of that name
    """
    check_names(function, given)
    hints = get_type_hints(function, include_extras=True)
    return {
        name: TypeAdapter[Any](hints.get(name, Any)).validate_python(value) for name, value in given.items()
    }


def _schema_of(hint: Any, what: str) -> Schema:
    try:
        return TypeAdapter[Any](hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError, ValueError) as error:
        raise TypeError(f"{what}: JSON has no schema for it ({str(error).splitlines()[0]})") from None


def _unnamed(schema: Schema, hint: Any) -> Schema:
    """Return an argument's schema without the name of its class: forms would show it for the argument's."""
    if schema.get("title") == getattr(hint, "__name__", None):
        schema.pop("title", None)
    return schema


def _lifted(schema: Schema) -> Schema:
    """Return a schema with the definitions of its properties at its own top, where their references look."""
    defs: dict[str, Any] = {}
    for part in schema["properties"].values():
        defs.update(part.pop(_DEFS, {}))
    return {**schema, _DEFS: defs} if defs else schema


def _param(part: Schema, *, is_required: bool) -> Param:
    description = part.get("description")
    schema = {key: value for key, value in part.items() if key not in ("default", "description")}
    if "default" in part:
        return Param(part["default"], description, schema=as_field(schema))
    if is_required:
        return Param(description=description, schema=as_field(schema))
    return Param(None, description, schema=as_field(_or_null(schema)))


def _or_null(schema: Schema) -> Schema:
    if _takes_null(schema):
        return schema
    outside = {key: schema[key] for key in (_DEFS, "title") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    return {**outside, "anyOf": [inside, {"type": _NULL}]}


def _takes_null(schema: Schema) -> bool:
    try:
        return compile_schema(schema).is_valid(None)
    except BadSchema:
        return False


def _alone(part: Any, schema: Schema) -> Schema:
    """Return a property's schema that can stand alone: where it refers to the whole, it has the whole."""
    own: Schema = dict(part) if isinstance(part, Mapping) else {}
    if f'"{_REF}"' not in json.dumps(own):
        return own
    whole = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    return {**_moved(own), _DEFS: {_INPUT: _moved(whole)}}


def _moved(part: Any) -> Any:
    """Return a part of a schema with its references to what is now one of the definitions."""
    if isinstance(part, list):
        return [_moved(each) for each in part]
    if not isinstance(part, Mapping) or isinstance(part.get("$id"), str):  # its references are to itself
        return part
    moved = {key: _moved(value) for key, value in part.items()}
    reference = moved.get(_REF)
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved[_REF] = f"#/{_DEFS}/{_INPUT}{reference.removeprefix('#')}"
    return moved
