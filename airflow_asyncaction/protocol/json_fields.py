# SPDX-License-Identifier: Apache-2.0
"""Typed fields of JSON objects: read a field, or raise an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.protocol.compat import StrEnum

E = TypeVar("E", bound=StrEnum)


def typed_field(fields: Mapping[str, Any], name: str, type_: type[Any]) -> Any:
    """Return a required field.

    :raises MalformedRequest: it is missing or has another type
    """
    value = fields.get(name)
    if not isinstance(value, type_) or (type_ is int and isinstance(value, bool)):
        raise MalformedRequest(f"{name} must be of type {type_.__name__}", field=name)
    return value


def optional_field(fields: Mapping[str, Any], name: str, type_: type[Any]) -> Any:
    """Return a field, or ``None`` if it is missing or ``null``.

    :raises MalformedRequest: it has another type
    """
    return None if fields.get(name) is None else typed_field(fields, name, type_)


def enum_field(fields: Mapping[str, Any], name: str, enum: type[E]) -> E:
    """Return a required field as a member of an enumeration.

    :raises MalformedRequest: the enumeration has no such value
    """
    try:
        return enum(str(fields.get(name)))
    except ValueError:
        raise MalformedRequest(f"{name} must be one of {', '.join(enum)}", field=name) from None
