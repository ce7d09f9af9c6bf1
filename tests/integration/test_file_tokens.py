# SPDX-License-Identifier: Apache-2.0
"""Tokens in ``/content`` URLs: each is valid only for the transfer that it was created for."""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from airflow.configuration import conf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from itsdangerous.encoding import base64_decode, base64_encode

from airflow_asyncaction.files.tokens import DownloadToken, Tokens, UploadToken
from tests.integration.file_servers import Serve, one_server_each
from tests.integration.file_transfers import announce, content_request, locate, outputs, put_content, upload
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import Answer, NewJob, SignedJob, registered, sent_raw

pytestmark = [pytest.mark.integration, one_server_each]

BAD = (403, "bad_token")
SIZE = 100
METHODS = ["GET", "HEAD", "PUT"]

hostile = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Urls:
    """One URL for an upload and one for a download."""

    def __init__(self, job: SignedJob) -> None:
        self.job = job
        self.sent, self.had = secrets.token_bytes(SIZE), secrets.token_bytes(SIZE)
        upload(job, "had", self.had)
        self.to_put: str = announce(job, "sent", self.sent).fields["url"]
        self.to_get: str = locate(job, "had").fields["Location"]

    def ask(self, method: str, token: str) -> Answer:
        """Use a token."""
        content = self.sent if method == "PUT" else b""
        return content_request(self.job.client, method, f"{self.job.client.hook}/content/{token}", content)

    def are_untouched(self) -> bool:
        """Return whether both files are unchanged."""
        is_awaited = locate(self.job, "sent").error == (404, "no_such_file")
        return is_awaited and content_request(self.job.client, "GET", self.to_get).body == self.had


@pytest.fixture
def urls(job: SignedJob) -> Urls:
    return Urls(job)


def token_in(url: str) -> str:
    return url.rpartition("/")[2]


def is_refused(answer: Answer, method: str) -> bool:
    return answer.status == 403 if method == "HEAD" else answer.error == BAD


def test_a_url_is_for_one_method(urls: Urls) -> None:
    assert put_content(urls.job, urls.to_get, urls.sent).error == BAD
    assert content_request(urls.job.client, "GET", urls.to_put).error == BAD
    assert content_request(urls.job.client, "HEAD", urls.to_put).status == 403
    assert urls.are_untouched()


def test_a_url_can_be_used_for_a_while(serve: Serve, new_task: Callable[..., RunningTask]) -> None:
    urls = Urls(registered(new_task(), serve()))
    job = urls.job.on(serve(file_url_valid_for=timedelta(seconds=0.05)))
    to_put = announce(job, "late", urls.sent).fields["url"]
    to_get = locate(job, "had").fields["Location"]
    time.sleep(0.1)
    late = put_content(job, to_put, urls.sent)
    assert late.error == BAD
    assert "expired" in late.fields["message"]
    assert content_request(job.client, "GET", to_get).error == BAD


def test_a_url_can_be_used_more_than_once(urls: Urls) -> None:
    for _ in range(2):
        assert put_content(urls.job, urls.to_put, urls.sent).status == 200
        assert content_request(urls.job.client, "GET", urls.to_get).body == urls.had


@pytest.mark.parametrize("url", ["to_get", "to_put"])
def test_a_token_with_a_changed_character_is_invalid(urls: Urls, url: str) -> None:
    token = token_in(getattr(urls, url))
    method = "GET" if url == "to_get" else "PUT"
    places = {0, 1, len(token) - 1, token.index("."), *range(2, len(token), 9)}
    for at in places:
        other = "A" if token[at] != "A" else "Q"
        assert is_refused(urls.ask(method, token[:at] + other + token[at + 1 :]), method), at
        assert is_refused(urls.ask(method, token[:at] + token[at + 1 :]), method), at
    assert urls.are_untouched()


def test_a_token_for_another_content_cannot_be_made_of_one(new_job: NewJob, urls: Urls) -> None:
    other = Urls(new_job())
    payload, signature = token_in(urls.to_get).rsplit(".", 1)
    its_payload, its_signature = token_in(other.to_get).rsplit(".", 1)
    edited = base64_encode(base64_decode(payload.lstrip(".")).replace(b"GET", b"PUT")).decode()
    for token in (
        f"{its_payload}.{signature}",
        f"{payload}.{its_signature}",
        f"{edited}.{signature}",
        payload,
        f"{payload}.",
        f".{signature}",
        f"{payload}.{signature}.{signature}",
    ):
        for method in METHODS:
            assert is_refused(urls.ask(method, token), method)
    assert urls.are_untouched()


def test_a_token_of_another_deployment_is_invalid(urls: Urls) -> None:
    (kept,) = outputs(urls.job)
    content_id = kept["uri"].rpartition("/")[2]
    wanted = DownloadToken(content_id, kept["store"], SIZE, kept["sha256"], "name", "text/csv")
    now, valid_for = datetime.now(UTC), timedelta(hours=1)
    ours = Tokens(conf.get("api", "secret_key"), valid_for=valid_for)
    theirs = Tokens("another deployment's key", valid_for=valid_for)
    assert urls.ask("GET", ours.sign(wanted, now)).body == urls.had
    assert is_refused(urls.ask("GET", theirs.sign(wanted, now)), "GET")
    to_put = UploadToken(urls.job.info.job_id, content_id, kept["store"], kept["md5"], SIZE)
    assert urls.ask("PUT", ours.sign(to_put, now)).error != BAD
    assert is_refused(urls.ask("PUT", theirs.sign(to_put, now)), "PUT")


@pytest.mark.parametrize("length", [1, 1_000, 8_000, 30_000])
def test_garbage_of_any_length_is_no_token(urls: Urls, length: int) -> None:
    for garbage in ("x" * length, "." * length, f"{'x' * length}.{'y' * length}"):
        for method in METHODS:
            assert is_refused(urls.ask(method, garbage), method)


def test_an_empty_token_is_invalid(urls: Urls) -> None:
    for method in METHODS:
        assert urls.ask(method, "").status in {403, 404}


# A line break leads nowhere already in the API server: its routes are patterns of one line.
any_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\n"), min_size=1, max_size=60
)
any_octets = st.binary(min_size=1, max_size=40).filter(lambda octets: b"\n" not in octets)


@hostile
@given(token=any_text)
@example(token="\0")
@example(token="..")
@example(token=".eJ.x")
@example(token="\u00b2\u0660\U0010ffff")
def test_any_text_is_no_token(urls: Urls, token: str) -> None:
    for method in METHODS:
        assert is_refused(urls.ask(method, quote(token, safe="")), method)


@hostile
@given(octets=any_octets)
def test_any_octets_are_no_token(urls: Urls, octets: bytes) -> None:
    encoded = "".join(f"%{octet:02x}" for octet in octets)
    for method in ("GET", "PUT"):
        answer = urls.ask(method, encoded)
        assert is_refused(answer, method) or answer.error == (404, "no_such_route")


@hostile
@given(token=st.text(string.ascii_letters + string.digits + "-_.~%/;=&+", max_size=40))
def test_any_path_is_answered(urls: Urls, token: str) -> None:
    for method in ("GET", "PUT"):
        answer = sent_raw(urls.job.client.hook, method, f"/content/{token}", ["Content-Length: 0"])
        assert answer.status == 400 or answer.error in {
            BAD,
            (404, "no_such_route"),
            (405, "method_not_allowed"),
        }


def test_a_token_is_not_in_the_log(urls: Urls, caplog: pytest.LogCaptureFixture) -> None:
    assert put_content(urls.job, urls.to_put, urls.sent).status == 200
    assert content_request(urls.job.client, "GET", urls.to_get).status == 200
    assert token_in(urls.to_get) not in caplog.text
    assert token_in(urls.to_put) not in caplog.text
