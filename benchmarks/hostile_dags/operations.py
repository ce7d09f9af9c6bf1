# SPDX-License-Identifier: Apache-2.0
"""Operations whose input schemas cost much to check, if they are checked as they are written."""

from __future__ import annotations

from airflow_asyncaction.dags import async_operation

async_operation(id="takes_any", type="echo", input={"type": "object"})
async_operation(
    id="takes_unique_items",
    type="echo",
    input={"type": "object", "properties": {"ids": {"type": "array", "uniqueItems": True}}},
)
async_operation(
    id="takes_a_pattern",
    type="echo",
    input={"type": "object", "properties": {"mail": {"type": "string", "pattern": r"^([a-zA-Z0-9]+)*@x$"}}},
)
async_operation(
    id="takes_a_tree",
    type="echo",
    input={
        "type": "object",
        "properties": {"node": {"$ref": "#/$defs/node"}},
        "$defs": {
            "node": {
                "anyOf": [
                    {"type": "null"},
                    {
                        "type": "object",
                        "properties": {"a": {"$ref": "#/$defs/node"}, "b": {"$ref": "#/$defs/node"}},
                    },
                ]
            }
        },
    },
)
