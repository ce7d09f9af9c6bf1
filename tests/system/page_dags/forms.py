# SPDX-License-Identifier: Apache-2.0
"""Operations with required and optional arguments of all types, for Airflow's own trigger form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from inspect import Parameter, Signature
from typing import Any, Literal

from airflow_asyncaction.dags import async_operation


class Colour(Enum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Column:
    """An object."""

    name: str
    width: int | None = None


KINDS: Mapping[str, Any] = {
    "text": str,
    "count": int,
    "ratio": float,
    "flag": bool,
    "day": date,
    "moment": datetime,
    "at": time,
    "lasts": timedelta,
    "mode": Literal["a", "b"],
    "level": Literal[1, 2],
    "colour": Colour,
    "names": list[str],
    "numbers": list[int],
    "colours": list[Colour],
    "column": Column,
    "options": dict[str, Any],
    "columns": list[Column],
    "pair": tuple[int, str],
    "key": int | str,
    "anything": Any,
}


def function_of(kinds: Mapping[str, Any], default: Any) -> Callable[..., dict[str, str]]:
    """Return a function with these parameters, which returns its arguments."""

    def function(**given: Any) -> dict[str, str]:
        return {name: repr(value) for name, value in given.items()}

    parameters = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name in kinds]
    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = dict(kinds)
    return function


async_operation(function_of(KINDS, Parameter.empty), id="form_required")
async_operation(function_of({name: kind | None for name, kind in KINDS.items()}, None), id="form_optional")
