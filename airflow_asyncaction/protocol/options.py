# SPDX-License-Identifier: Apache-2.0
"""Options: fields of a dataclass that define how they are sent, stored and validated.

:class:`~airflow_asyncaction.protocol.actions.ActionOptions` declares the options of actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import Enum
from functools import lru_cache
from typing import Any

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.protocol.reports import MAX_NAME_CHARS, is_name

_MAX_SECONDS = 10**9
_MAX_LINES = 10**6


@dataclass(frozen=True)
class OptionKind:
    """A kind of value, and its stored form: a JSON scalar, in requests and in database columns.

    :param expected: completes "must be" in error messages
    :param is_valid: whether a stored value is valid
    :param load: converts a stored value to the option's value
    :param dump: converts the option's value to its stored form
    :param unit: last word of the stored name
    """

    expected: str
    is_valid: Callable[[Any], bool]
    load: Callable[[Any], Any] = lambda value: value
    dump: Callable[[Any], Any] = lambda value: value
    unit: str = ""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _MAX_SECONDS


FLAG = OptionKind("true or false", lambda value: isinstance(value, bool))
LINES = OptionKind("an integer", _is_integer, load=lambda value: max(0, min(value, _MAX_LINES)))
NAME = OptionKind(f"1 to {MAX_NAME_CHARS} printable characters", is_name)
DURATION = OptionKind(
    "a number of seconds above 0",
    _is_duration,
    load=lambda seconds: timedelta(seconds=seconds),
    dump=timedelta.total_seconds,
    unit="seconds",
)


@lru_cache(maxsize=None)  # the same enumeration is the same kind
def choice(members: type[Enum]) -> OptionKind:
    """Return the kind of an enumeration of strings."""
    values = [member.value for member in members]
    return OptionKind(
        " or ".join(f'"{value}"' for value in values),
        lambda value: value in values,
        load=members,
        dump=lambda member: member.value,
    )


def option(kind: OptionKind, default: Any) -> Any:
    """Declare an option. It may be ``None`` if its default is ``None``."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class OptionField:
    """A declared option.

    :param column: name of its database column
    :param json_name: its name in requests of tasks
    :param is_optional: whether it may be ``None``
    """

    name: str
    kind: OptionKind
    column: str
    json_name: str
    is_optional: bool

    def dump(self, value: Any) -> Any:
        """Return a value in its stored form."""
        return None if value is None else self.kind.dump(value)

    def load(self, stored: Any) -> Any:
        """Return the value of a stored form."""
        return None if stored is None else self.kind.load(stored)

    def load_json(self, json_fields: Mapping[str, Any]) -> Any:
        """Return the value that a task sent.

        :raises MalformedRequest: it is missing or invalid
        """
        sent = json_fields.get(self.json_name)
        if not (self.is_optional if sent is None else self.kind.is_valid(sent)):
            raise MalformedRequest(f"{self.json_name} must be {self.kind.expected}", field=self.json_name)
        return self.load(sent)


@lru_cache(maxsize=None)  # of a few classes
def options_of(declaring: Any) -> tuple[OptionField, ...]:
    """Return the options that a dataclass declares or inherits, in order."""
    options = []
    for each in fields(declaring):
        if "kind" in each.metadata:
            kind: OptionKind = each.metadata["kind"]
            words = [*each.name.split("_"), *([kind.unit] if kind.unit else [])]
            json_name = words[0] + "".join(word.capitalize() for word in words[1:])
            options.append(OptionField(each.name, kind, "_".join(words), json_name, each.default is None))
    return tuple(options)


def options_to_json(options: Any) -> dict[str, Any]:
    """Return the options of an object in the form that tasks send."""
    return {each.json_name: each.dump(getattr(options, each.name)) for each in options_of(options.__class__)}


def options_from_json(declaring: Any, json_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the result of :func:`options_to_json` into arguments for the class with these options.

    :raises MalformedRequest: an option is missing or invalid
    """
    return {each.name: each.load_json(json_fields) for each in options_of(declaring)}


def options_to_columns(options: Any) -> dict[str, Any]:
    """Return the options of an object as columns of a row."""
    return {each.column: each.dump(getattr(options, each.name)) for each in options_of(options.__class__)}


def options_from_columns(declaring: Any, row: Any) -> dict[str, Any]:
    """Parse the result of :func:`options_to_columns` into arguments for the class with these options."""
    return {each.name: each.load(getattr(row, each.column)) for each in options_of(declaring)}
