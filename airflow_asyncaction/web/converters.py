# SPDX-License-Identifier: Apache-2.0
"""URL converters: which parts of a path are operation ids, and which are indexes of files."""

from __future__ import annotations

from flask import Flask
from werkzeug.routing import BaseConverter

from airflow_asyncaction.protocol.files import MAX_INDEX

OPERATION = "operation"
INDEX = "index"


class OperationIdConverter(BaseConverter):
    """An operation's id: any name of a Dag but those of the routes that only jobs have."""

    regex = r"(?!(?:status|job)$)[.~-]*\w[\w.~-]*"  # which can match in one way only: anybody may ask


class IndexConverter(BaseConverter):
    """A file's index. Werkzeug's ``int`` raises ValueError for more digits than Python converts."""

    regex = rf"[0-9]{{1,{len(str(MAX_INDEX))}}}"

    def to_python(self, value: str) -> int:
        """Return the index."""
        return int(value)

    def to_url(self, value: int) -> str:
        """Return it as a part of a path."""
        return str(value)


def register_converters(app: Flask) -> None:
    """Let the app's routes use them."""
    app.url_map.converters |= {OPERATION: OperationIdConverter, INDEX: IndexConverter}
