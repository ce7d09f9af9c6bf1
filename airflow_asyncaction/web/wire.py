# SPDX-License-Identifier: Apache-2.0
"""What came over the wire, as it came: signatures cover the raw path, query and body."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.utils import redirect
from werkzeug.wrappers import Response

_CHUNK_BYTES = 64 * 1024
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")


def raw_body(request: Request, max_bytes: int) -> bytes:
    """Read the body once, at most ``max_bytes``.

    :raises RequestEntityTooLarge: it is longer
    """
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise RequestEntityTooLarge
    chunks, size = [], 0
    while chunk := request.stream.read(min(_CHUNK_BYTES, max_bytes + 1 - size)):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise RequestEntityTooLarge
    return b"".join(chunks)


def raw_query(environ: dict[str, Any]) -> bytes:
    """Return the query string as it was sent."""
    query: str = environ.get("QUERY_STRING", "")
    return query.encode("latin-1")


def raw_path(environ: dict[str, Any]) -> bytes:
    """Return the path relative to where the app is mounted, percent-encoding as it was sent.

    WSGI has only the decoded path. The raw one, of the ASGI scope or of the server, begins with prefixes
    that proxies add or strip: of it, the part is taken that decodes to the path that was routed.
    """
    routed = environ.get("PATH_INFO", "").encode("latin-1")
    if routed in (b"", b"/"):
        return b""  # the hook itself: no request goes to less than "/"
    sent = _sent_path(environ)
    start = len(unquote_to_bytes(sent)) - len(routed)
    for escape in _ESCAPE.finditer(sent):
        if escape.start() >= start:
            break
        start += 2
    path = sent[max(start, 0) :]
    return path if path[:1] == b"/" and unquote_to_bytes(path) == routed else quote(routed).encode()


def _sent_path(environ: dict[str, Any]) -> bytes:
    scope = environ.get("asgi.scope") or {}
    sent: bytes = scope.get("raw_path") or environ.get("RAW_URI", environ.get("REQUEST_URI", "")).encode(
        "latin-1"
    )
    return sent.partition(b"?")[0]


def requested_hook_url(request: Request) -> str:
    """Return the absolute URL that these routes are mounted at, as a request's sender has it."""
    return request.root_url.rstrip("/")


def end_chunked_input(environ: dict[str, Any]) -> None:
    """Let a chunked body, which declares no length, be read to its end.

    Only then: it also takes away werkzeug's guard that a body is as long as declared.
    """
    if "CONTENT_LENGTH" not in environ and "chunked" in environ.get("HTTP_TRANSFER_ENCODING", ""):
        environ["wsgi.input_terminated"] = True


def redirection(url: str) -> Response:
    """Return a redirect to a URL as it is: a path stays one, since the client knows the right host."""
    response = redirect(url)
    response.autocorrect_location_header = False
    return response
