# SPDX-License-Identifier: Apache-2.0
"""Raw requests: path, query and body exactly as sent, as covered by signatures."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from flask import Request
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.http import parse_cookie
from werkzeug.utils import cached_property, redirect
from werkzeug.wrappers import Response

from airflow_asyncaction.exceptions import SignatureError
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES

_CHUNK_BYTES = 64 * 1024
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")


class WireRequest(Request):
    """Request whose query and cookies may contain any bytes. Werkzeug's own requires UTF-8.

    A chunked body, which declares no length, is readable to its end under any WSGI server.
    """

    def __init__(self, environ: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        # For other bodies this would disable Werkzeug's check of the declared length.
        if "CONTENT_LENGTH" not in environ and "chunked" in environ.get("HTTP_TRANSFER_ENCODING", ""):
            environ["wsgi.input_terminated"] = True
        super().__init__(environ, *args, **kwargs)

    @cached_property
    def args(self) -> MultiDict[str, str]:
        """Query parameters. Bytes that are not UTF-8, escaped or not, become lone surrogates."""
        query = self.query_string.decode("utf-8", "surrogateescape")
        return ImmutableMultiDict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))

    @cached_property
    def cookies(self) -> ImmutableMultiDict[str, str]:
        """Cookies. Bytes that are not UTF-8 become U+FFFD."""
        header = self.headers.get("Cookie", "").encode("latin-1").decode("utf-8", "replace")
        return ImmutableMultiDict(parse_cookie(header))


def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body of a request.

    :raises RequestEntityTooLarge: it has more than ``max_bytes``
    """
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise _too_large(request, max_bytes)
    chunks, size = [], 0
    while chunk := request.stream.read(min(_CHUNK_BYTES, max_bytes + 1 - size)):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(request, max_bytes)
    return b"".join(chunks)


def _too_large(request: Request, max_bytes: int) -> RequestEntityTooLarge:
    """Return the error for a body, and discard its rest: unread data would reset the connection."""
    left = LARGEST_BODY_BYTES
    while left > 0 and (chunk := request.stream.read(min(_CHUNK_BYTES, left))):
        left -= len(chunk)
    return RequestEntityTooLarge(
        f"The body exceeds {max_bytes} bytes ([asyncaction] max_body_bytes). Send several smaller requests"
    )


def raw_query(environ: dict[str, Any]) -> bytes:
    """Return the query string as sent."""
    query: str = environ.get("QUERY_STRING", "")
    return query.encode("latin-1")


def raw_path(environ: dict[str, Any]) -> bytes:
    """Return the path relative to the mount, with percent-encoding as sent.

    WSGI only has the decoded path. The raw path, from the ASGI scope or the server, may start with a prefix
    that a proxy added or stripped, so this returns the part of it that decodes to the routed path. If the
    server does not provide a raw path, the decoded one is encoded as most clients do.

    :raises SignatureError: no such part starts with a slash: the first slash is escaped, or the path is not
        UTF-8
    """
    routed = environ.get("PATH_INFO", "").encode("latin-1")
    sent = _sent_path(environ)
    if routed in (b"", b"/"):  # the hook URL itself: HTTP requests have at least the path "/"
        path = b""
        is_sent = sent.endswith(b"/") or not unquote_to_bytes(sent).endswith(b"/")
    elif sent:
        path = _below(sent, len(unquote_to_bytes(sent)) - len(routed))
        is_sent = path.startswith(b"/") and unquote_to_bytes(path) == routed
    else:
        return quote(routed).encode()
    if not is_sent:
        raise SignatureError("The first slash of the path is escaped, or the path is not UTF-8")
    return path


def _below(sent: bytes, start: int) -> bytes:
    """Return the rest of a path after a number of decoded bytes."""
    for escape in _ESCAPE.finditer(sent):
        if escape.start() >= start:
            break
        start += 2
    return sent[max(start, 0) :]


def _sent_path(environ: dict[str, Any]) -> bytes:
    scope = environ.get("asgi.scope") or {}
    sent: bytes = scope.get("raw_path") or environ.get("RAW_URI", environ.get("REQUEST_URI", "")).encode(
        "latin-1"
    )
    return sent.partition(b"?")[0]


def requested_hook_url(request: Request) -> str:
    """Return the absolute URL of the mount, as the sender of a request uses it."""
    return request.root_url.rstrip("/")


def redirect_to(url: str) -> Response:
    """Return a redirect whose ``Location`` may be a path: the client knows the host."""
    response = redirect(url)
    response.autocorrect_location_header = False
    return response
