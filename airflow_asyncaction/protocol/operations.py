# SPDX-License-Identifier: Apache-2.0
"""Operations: action types published for launching, as a Dag declares them and the API server reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Dict

from airflow_asyncaction.protocol.compat import keyword_dataclass

TAG = "async-operation"
"""The tag by which a Dag is an operation."""

_KEY = "asyncOperation"

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""Pattern of the header ``Idempotency-Key``."""

Schema = Dict[str, Any]
"""A JSON Schema, draft 2020-12, whose references are within itself."""


@keyword_dataclass
class Declaration:
    """What a Dag says of the operation that it is, in ``doc_json`` of the task that carries it out.

    :param type: of the action
    :param input: JSON Schema of its arguments; ``None``: whatever the Dag's Params say
    :param output: JSON Schema of its results
    :param permission: as webda's operations file has it; who may launch is for Airflow's auth manager to say
    """

    type: str
    input: Schema | None = None
    output: Schema | None = None
    permission: str | None = None

    def to_doc(self) -> str:
        """Return it as ``doc_json``."""
        return json.dumps({_KEY: vars(self)}, indent=2)

    @classmethod
    def from_doc(cls, doc: str | None) -> Declaration | None:
        """Read what :meth:`to_doc` wrote; ``None`` if it is another document."""
        try:
            fields = json.loads(doc or "null")
        except ValueError:
            return None
        said = fields.get(_KEY) if isinstance(fields, dict) else None
        if not isinstance(said, Mapping) or not isinstance(said.get("type"), str):
            return None
        return cls(
            type=said["type"],
            input=_schema(said.get("input")),
            output=_schema(said.get("output")),
            permission=said.get("permission") if isinstance(said.get("permission"), str) else None,
        )


def _schema(value: Any) -> Schema | None:
    return value if isinstance(value, dict) else None
