# SPDX-License-Identifier: Apache-2.0
"""Backports of newer standard library features for jobs on Python 3.8, the oldest supported version."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, NoReturn, TypeVar

__all__ = ["StrEnum", "assert_never", "keyword_dataclass"]

T = TypeVar("T")

if sys.version_info >= (3, 11):  # novm
    from enum import StrEnum
    from typing import assert_never
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """Enumeration whose members are strings."""

        def __str__(self) -> str:
            return str(self.value)

    def assert_never(value: NoReturn) -> NoReturn:
        """Raise an error: type checkers prove that this is never called."""
        raise AssertionError(f"Unhandled value: {value!r}")


if TYPE_CHECKING:
    from typing import dataclass_transform  # novm
else:

    def dataclass_transform(**_):
        """Return a decorator that does nothing."""
        return lambda function: function


if sys.version_info >= (3, 10):  # novm
    _keyword_dataclass = dataclass(frozen=True, kw_only=True)
else:

    def _initialize(instance, **values):
        """Set the fields of a dataclass: required fields may follow optional ones."""
        for each in fields(instance):
            value = values.pop(each.name, each.default)
            if value is MISSING and each.default_factory is not MISSING:
                value = each.default_factory()
            if value is MISSING:
                raise TypeError(f"{type(instance).__name__}() is missing the argument {each.name!r}")
            object.__setattr__(instance, each.name, value)
        if values:
            raise TypeError(f"{type(instance).__name__}() got unexpected arguments: {', '.join(values)}")

    def _keyword_dataclass(cls):
        cls.__init__ = _initialize
        return dataclass(frozen=True, init=False)(cls)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def keyword_dataclass(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass with keyword-only fields."""
    return _keyword_dataclass(cls)
