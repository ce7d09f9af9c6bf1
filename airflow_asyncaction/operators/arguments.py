# SPDX-License-Identifier: Apache-2.0
"""Arguments of an action and, for a webda job, the service and the method that they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_asyncaction.protocol.reports import MAX_NAME_CHARS, is_name
from airflow_asyncaction.protocol.strict_json import JsonText, loads

Arguments = Mapping[str, Any] | Sequence[Any]
"""Named arguments, or positional arguments of a service's method."""


class ArgumentsOperator(BaseOperator):
    """Operator with an action's arguments. BaseActionOperator describes the parameters."""

    template_fields: Sequence[str] = ("arguments", "service_name", "method")
    template_fields_renderers: ClassVar[dict[str, str]] = {"arguments": "json"}

    def __init__(
        self,
        *,
        arguments: Arguments | None = None,
        service_name: str | None = None,
        method: str | None = None,
        orchestrator: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (service_name is None) != (method is None):
            missing = "method" if method is None else "service_name"
            raise ValueError(f"{missing} is missing: pass service_name and method together")
        if orchestrator is not None:
            _check_name("orchestrator", orchestrator)
        if service_name is not None and isinstance(arguments, Mapping):
            check_positional(arguments)
        self.arguments = arguments
        self.service_name = service_name
        self.method = method
        self.orchestrator = orchestrator

    def encode_arguments(self) -> JsonText:
        """Return the rendered arguments as JSON.

        :raises ValueError: they are not JSON-serializable, or not a list though a method takes them
        """
        arguments: Any = self.arguments
        if self.service_name is not None:
            _check_name("service_name", self.service_name)
            _check_name("method", self.method)
            arguments = [] if arguments is None else arguments
            check_positional(arguments)
        try:
            text = json.dumps({} if arguments is None else arguments, allow_nan=False)
            loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"arguments must be JSON-serializable: {error}") from None
        return JsonText(text)


def _check_name(option: str, value: Any) -> None:
    if not is_name(value):
        raise ValueError(f"{option} is {value!r}: it must be 1 to {MAX_NAME_CHARS} printable characters")


def check_positional(arguments: Any) -> None:
    """Check that the arguments of a service's method are a list.

    :raises ValueError: they are not
    """
    if not isinstance(arguments, list | tuple):
        raise ValueError(
            f"arguments is of type {type(arguments).__name__}: with service_name it must be a list, the"
            " method's positional arguments"
        )
