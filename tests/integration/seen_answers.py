# SPDX-License-Identifier: Apache-2.0
"""Comparable form of responses: the parts on which clients may rely."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.signed_jobs import Answer

# Compared by value. All other fields are compared by type: UUIDs, URLs and times differ, and messages may.
_SAME_VALUES = frozenset(
    [
        *("error", "field", "done", "complete", "method", "index"),
        *("status", "action", "type", "arguments", "results", "errorName", "attempt", "serviceName"),
        *("name", "size", "mimetype", "hash", "sha256", "metadata"),
    ]
)
_SAME_HEADERS = ("content-type", "content-range", "content-disposition", "accept-ranges", "etag")
_PRESENT_HEADERS = ("retry-after", "www-authenticate", "location")


def seen(answer: Answer) -> Any:
    """Return the comparable form of a response."""
    headers = {name: answer.headers[name] for name in _SAME_HEADERS if name in answer.headers}
    present = [name for name in _PRESENT_HEADERS if name in answer.headers]
    allowed = {method.strip() for method in answer.headers.get("allow", "").split(",")}
    if answer.status == 302:  # its body is for people
        return answer.status, present
    is_json = answer.headers.get("content-type") == "application/json"
    body = _shape(json.loads(answer.body)) if is_json and answer.body else answer.body
    return answer.status, present, allowed, headers, body


def _shape(value: Any) -> Any:
    if not isinstance(value, dict):
        return type(value).__name__
    return {name: each if name in _SAME_VALUES else _shape(each) for name, each in value.items()}
