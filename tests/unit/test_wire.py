# SPDX-License-Identifier: Apache-2.0
"""The path that was signed is found again in what the server tells of a request."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.web.wire import end_chunked_input, raw_path, raw_query

# What may stand between two slashes: letters, and octets that are encoded though they need not be.
_plain = st.text(st.sampled_from("abz019-._~!$&'()*+,;=:@"), min_size=1, max_size=4)
_encoded = st.binary(min_size=1, max_size=3).map(
    lambda octets: "".join(f"%{octet:02X}" for octet in octets) + "".join(f"%{octet:02x}" for octet in octets)
)
_segment = st.lists(_plain | _encoded | st.just("%2F") | st.just(""), max_size=3).map("".join)
paths = st.lists(_segment, min_size=1, max_size=4).map(lambda segments: "/" + "/".join(segments))
prefixes = st.just("") | st.lists(_plain | st.just("a%20b"), min_size=1, max_size=3).map(
    lambda segments: "/" + "/".join(segments)
)


def routed(path: str) -> str:
    """Return a path as WSGI has it: decoded, its octets as characters."""
    return unquote_to_bytes(path).decode("latin-1")


def is_hook(path: str) -> bool:
    return unquote_to_bytes(path) in (b"", b"/")


@given(prefix=prefixes, path=paths, query=st.none() | st.text(st.sampled_from("a=&%20/?"), max_size=8))
def test_the_path_is_found_below_any_prefix(prefix: str, path: str, query: str | None) -> None:
    sent = prefix + path
    expected = b"" if is_hook(path) else path.encode()
    asgi = {"PATH_INFO": routed(path), "asgi.scope": {"raw_path": sent.encode()}}
    assert raw_path(asgi) == expected
    target = sent if query is None else f"{sent}?{query}"
    assert raw_path({"PATH_INFO": routed(path), "RAW_URI": target}) == expected
    assert raw_path({"PATH_INFO": routed(path), "REQUEST_URI": target}) == expected


@given(prefix=prefixes, path=paths)
def test_a_prefix_that_a_proxy_added_or_took_away_changes_nothing(prefix: str, path: str) -> None:
    if not is_hook(path):
        environ: dict[str, Any] = {"PATH_INFO": routed(path), "SCRIPT_NAME": routed(prefix)}
        assert raw_path({**environ, "RAW_URI": path}) == path.encode()
        assert raw_path({**environ, "RAW_URI": "/other" + prefix + path}) == path.encode()


@given(path=paths)
def test_without_the_raw_path_it_is_encoded_as_most_do(path: str) -> None:
    expected = "" if is_hook(path) else quote(unquote_to_bytes(path))
    assert raw_path({"PATH_INFO": routed(path)}) == expected.encode()


@pytest.mark.parametrize("sent", ["/async", "/async/", "/", "", "/async?a=1", "/%2F"])
def test_the_hook_itself_is_the_empty_path(sent: str) -> None:
    for path in ("", "/"):
        assert raw_path({"PATH_INFO": path, "RAW_URI": sent}) == b""


@given(
    environ=st.dictionaries(
        st.sampled_from(["PATH_INFO", "RAW_URI", "REQUEST_URI"]), st.text(st.characters(max_codepoint=255))
    )
)
def test_whatever_a_server_says_there_is_a_path(environ: dict[str, str]) -> None:
    assert isinstance(raw_path(dict(environ)), bytes)


@given(query=st.text(st.characters(max_codepoint=255)))
def test_the_query_is_what_was_sent(query: str) -> None:
    assert raw_query({"QUERY_STRING": query}) == query.encode("latin-1")
    assert raw_query({}) == b""


def test_only_a_chunked_body_ends_by_itself() -> None:
    chunked: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked"}
    end_chunked_input(chunked)
    assert chunked["wsgi.input_terminated"] is True
    for sized in ({}, {"CONTENT_LENGTH": "3", "HTTP_TRANSFER_ENCODING": "chunked"}):
        end_chunked_input(sized)
        assert "wsgi.input_terminated" not in sized
