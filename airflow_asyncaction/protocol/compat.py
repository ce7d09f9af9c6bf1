# SPDX-License-Identifier: Apache-2.0
"""Backports of newer standard library features for jobs on Python 3.8, the oldest supported version."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

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
        """Raise: type checkers prove that this is never called."""
        raise AssertionError(f"Unhandled value: {value!r}")


if TYPE_CHECKING:
    from typing import dataclass_transform  # novm
else:

    def dataclass_transform(**_):
        """Return a decorator that does nothing."""
        return lambda function: function


_OPTIONS: dict[str, Any] = {"kw_only": True} if sys.version_info >= (3, 10) else {}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def keyword_dataclass(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass with keyword-only fields. Positional too before Python 3.10."""
    return dataclass(frozen=True, **_OPTIONS)(cls)
