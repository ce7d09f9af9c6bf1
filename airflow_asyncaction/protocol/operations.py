# SPDX-License-Identifier: Apache-2.0
"""Operations: action types that users can launch. Dags declare them, and the API server reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Dict

from airflow_asyncaction.protocol.compat import keyword_dataclass

TAG = "async-operation"
"""Tag of Dags that are operations."""

_KEY = "asyncOperation"

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""Pattern of the header ``Idempotency-Key``."""

Schema = Dict[str, Any]
"""A JSON Schema (draft 2020-12) without references to other schemas."""


@keyword_dataclass
class Declaration:
    """Declaration of an operation in the ``doc_json`` of the task that runs it.

    :param type: type of the action
    :param input: JSON Schema of the arguments; ``None`` to use the Dag's Params
    :param output: JSON Schema of the results
    :param permission: from webda's operations file, for display. Airflow's auth manager decides who may
        launch the operation
    """

    type: str
    input: Schema | None = None
    output: Schema | None = None
    permission: str | None = None

    def to_doc(self) -> str:
        """Return the declaration as ``doc_json``."""
        return json.dumps({_KEY: vars(self)}, indent=2)

    @classmethod
    def from_doc(cls, doc: str | None) -> Declaration | None:
        """Parse what :meth:`to_doc` returned. Return ``None`` for any other document."""
        try:
            fields = json.loads(doc or "null")
        except ValueError:
            return None
        declaration = fields.get(_KEY) if isinstance(fields, dict) else None
        if not isinstance(declaration, Mapping) or not isinstance(declaration.get("type"), str):
            return None
        return cls(
            type=declaration["type"],
            input=_schema(declaration.get("input")),
            output=_schema(declaration.get("output")),
            permission=declaration.get("permission")
            if isinstance(declaration.get("permission"), str)
            else None,
        )


def _schema(value: Any) -> Schema | None:
    return value if isinstance(value, dict) else None
