# SPDX-License-Identifier: Apache-2.0
"""Raw requests: the signed path is restored from what the server provides."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.exceptions import SignatureError
from airflow_asyncaction.web.raw_request import WireRequest, raw_path, raw_query

# Segments between slashes: letters, and bytes that are escaped without need.
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
    """Return a path as in WSGI: decoded, with its bytes as characters."""
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
def test_without_a_raw_path_the_decoded_one_is_encoded(path: str) -> None:
    expected = "" if is_hook(path) else quote(unquote_to_bytes(path))
    assert raw_path({"PATH_INFO": routed(path)}) == expected.encode()


@pytest.mark.parametrize("sent", ["/async", "/async/", "/", "", "/async?a=1", "/async%2Fb", "/%2F/"])
def test_the_hook_url_itself_is_the_empty_path(sent: str) -> None:
    for path in ("", "/"):
        assert raw_path({"PATH_INFO": path, "RAW_URI": sent}) == b""


@given(path=paths, prefix=prefixes, slash=st.sampled_from(["%2F", "%2f"]))
def test_a_path_whose_first_slash_is_escaped_is_not_signed(prefix: str, path: str, slash: str) -> None:
    environ = {"PATH_INFO": routed(path), "RAW_URI": prefix + slash + path[1:]}
    with pytest.raises(SignatureError):
        raw_path(environ)


@given(path=paths)
def test_a_path_that_was_routed_otherwise_is_not_signed(path: str) -> None:
    replaced = unquote_to_bytes(path + "%FF").decode("utf-8", "replace")  # as ASGI servers decode it
    with pytest.raises(SignatureError):
        raw_path({"PATH_INFO": replaced.encode().decode("latin-1"), "RAW_URI": path + "%FF"})


@given(
    environ=st.dictionaries(
        st.sampled_from(["PATH_INFO", "RAW_URI", "REQUEST_URI"]), st.text(st.characters(max_codepoint=255))
    )
)
def test_any_environ_has_a_path_or_raises_signature_error(environ: dict[str, str]) -> None:
    with suppress(SignatureError):
        assert isinstance(raw_path(dict(environ)), bytes)


@given(query=st.text(st.characters(max_codepoint=255)))
def test_the_query_is_what_was_sent(query: str) -> None:
    assert raw_query({"QUERY_STRING": query}) == query.encode("latin-1")
    assert raw_query({}) == b""


@given(query=st.binary(), cookie=st.binary())
def test_any_bytes_are_accepted_as_query_and_cookies(query: bytes, cookie: bytes) -> None:
    environ = {"QUERY_STRING": query.decode("latin-1"), "HTTP_COOKIE": cookie.decode("latin-1")}
    request = WireRequest(environ)
    assert all(isinstance(value, str) for value in [*request.args.values(), *request.cookies.values()])


@pytest.mark.parametrize(
    "escape", [bytes, lambda octets: "".join(f"%{octet:02X}" for octet in octets).encode()]
)
@pytest.mark.parametrize(("octets", "text"), [("é".encode(), "é"), (b"\xff", "\udcff"), (b"%", "%")])
def test_a_query_is_the_same_escaped_or_not(
    escape: Callable[[bytes], bytes], octets: bytes, text: str
) -> None:
    request = WireRequest({"QUERY_STRING": (b"a=" + escape(octets)).decode("latin-1")})
    assert request.args["a"] == text


def test_cookies_are_parsed_as_usual() -> None:
    request = WireRequest({"HTTP_COOKIE": 'a=1; _token=x.y; b="\xff"; \xff=2; c'})
    assert (request.cookies["a"], request.cookies["_token"]) == ("1", "x.y")


def test_only_a_chunked_body_is_input_terminated() -> None:
    chunked: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked"}
    WireRequest(chunked)
    assert chunked["wsgi.input_terminated"] is True
    for sized in ({}, {"CONTENT_LENGTH": "3", "HTTP_TRANSFER_ENCODING": "chunked"}):
        WireRequest(sized)
        assert "wsgi.input_terminated" not in sized
