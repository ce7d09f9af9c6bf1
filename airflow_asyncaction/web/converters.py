# SPDX-License-Identifier: Apache-2.0
"""URL converters for operation ids and file indexes."""

from __future__ import annotations

from flask import Flask
from werkzeug.routing import BaseConverter

from airflow_asyncaction.protocol.files import MAX_INDEX

OPERATION = "operation"
INDEX = "index"


class OperationIdConverter(BaseConverter):
    """Matches an operation's id: any Dag id, except the names of the job routes."""

    regex = r"(?!(?:status|job)$)[.~-]*\w[\w.~-]*"  # unambiguous, so hostile paths cannot cause backtracking


class IndexConverter(BaseConverter):
    """Matches a file's index. Werkzeug's ``int`` raises ValueError for more digits than Python converts."""

    regex = rf"[0-9]{{1,{len(str(MAX_INDEX))}}}"

    def to_python(self, value: str) -> int:
        """Return the index."""
        return int(value)

    def to_url(self, value: int) -> str:
        """Return the index as a path segment."""
        return str(value)


def register_converters(app: Flask) -> None:
    """Register the converters for the routes of an app."""
    app.url_map.converters |= {OPERATION: OperationIdConverter, INDEX: IndexConverter}
