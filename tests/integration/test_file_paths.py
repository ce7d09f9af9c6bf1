# SPDX-License-Identifier: Apache-2.0
"""Paths, names and links cannot leave a file store's folder, and every request gets a response."""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.file_servers import Folder, one_server_each
from tests.integration.file_transfers import (
    announce,
    announce_input,
    announcement,
    content_request,
    download,
    link_input,
    locate,
    outputs,
    put_content,
    upload,
)
from tests.integration.signed_jobs import Answer, SignedJob

pytestmark = [pytest.mark.integration, one_server_each]

SIZE = 500
UNKNOWN = "01890000-0000-7000-8000-000000000000"


hostile = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


ODD_SEGMENTS = [
    *("..", ".", "%2e%2e", "%2E", "..%2f..", "%2F", "%2Fetc%2Fpasswd", "%5c", "..%5c..", "%00", "a%00b"),
    *("%ff%fe", "%C3%A9", "%E2%80%AE", "%ED%A0%80", "%25", "%20", "~", "a;b", "a" * 5_000),
]
ODD_INDEXES = [
    "-1",
    "-0",
    "+1",
    "1.0",
    "1e3",
    "0x0",
    "%C2%B2",
    "",
    "01",
    str(2**31 - 1),
    str(2**31),
    str(2**64),
]
ROUTES = {
    "upload": ("PUT", ["upload", "default", "{id}", "model"]),
    "complete": ("POST", ["upload", "default", "{id}", "model", "0", "complete"]),
    "download": ("GET", ["download", "default", "{id}", "model", "0"]),
    "input": ("PUT", ["task", "inputs", "default", "model"]),
    "link": ("POST", ["task", "inputs", "model", "link"]),
}


def is_refusal(answer: Answer) -> bool:
    return 400 <= answer.status < 500 and answer.error[1].replace("_", "").isalpha()


def lies_in(folder: Folder) -> set[str]:
    """Return all files in the folder and beside it."""
    return {str(path) for path in folder.root.parent.rglob("*") if path.is_file()}


@pytest.mark.parametrize("route", ROUTES)
def test_an_odd_path_leads_to_no_file(own_job: SignedJob, folder: Folder, route: str) -> None:
    upload(own_job, "model", secrets.token_bytes(SIZE))
    before = lies_in(folder)
    method, segments = ROUTES[route]
    usual = [segment.format(id=own_job.info.job_id) for segment in segments]
    for at, odd in product(range(1, len(usual)), ODD_SEGMENTS):
        if (route, at) != ("complete", 1):  # it has a test of its own
            path = "/" + "/".join([*usual[:at], odd, *usual[at + 1 :]])
            assert is_refusal(own_job.send(method, path, announcement(b"x"))), path
    assert lies_in(folder) == before
    assert [file["property"] for file in outputs(own_job)] == ["model"]


def test_a_store_that_is_not_there_takes_and_gives_nothing(job: SignedJob) -> None:
    upload(job, "model", secrets.token_bytes(SIZE))
    for method, path in (
        ("PUT", f"/upload/none/{job.info.job_id}/model"),
        ("GET", f"/download/none/{job.info.job_id}/model/0"),
        ("PUT", "/task/inputs/none/data"),
        ("POST", f"/upload/none/{job.info.job_id}/model/0/complete"),
    ):
        answer = job.send(method, path, announcement(b"x"))
        assert answer.status == 404, path
        assert answer.error == (404, "no_such_store")


def test_a_line_break_in_a_path_leads_nowhere(job: SignedJob) -> None:
    assert job.send("PUT", f"/upload/%0d%0a/{job.info.job_id}/model", announcement(b"x")).status == 404
    assert job.send("GET", f"/download/default/{job.info.job_id}/%0a/0").status in {400, 404}


@pytest.mark.parametrize("index", ODD_INDEXES)
def test_an_odd_index_leads_to_no_file(job: SignedJob, index: str) -> None:
    upload(job, "model", secrets.token_bytes(SIZE))
    for method, path in (
        ("GET", f"/download/default/{job.info.job_id}/model/{index}"),
        ("POST", f"/upload/default/{job.info.job_id}/model/{index}/complete"),
        ("POST", f"/task/inputs/default/model/{index}/complete"),
    ):
        answer = job.send(method, path)
        assert answer.status == 404, (path, answer)
        assert is_refusal(answer)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../x",
            "..",
            ".",
            "/etc/passwd",
            "a//b",
            "a/",
            "a/../../b",
            "a\\b",
            "C:\\x",
            "a\0",
            "a\nb",
            "a\x1bb",
        ),
        *("", "x" * 256, "x" * 300, "\x7f", "\x9b"),
        *(0, True, [], {}, ["a"]),
    ],
    ids=ascii,
)
def test_a_name_that_leads_elsewhere_is_malformed(job: SignedJob, name: object) -> None:
    for answer in (announce(job, "model", b"x", name=name), announce_input(job, "data", b"x", name=name)):
        assert answer.error == (400, "malformed")
        assert answer.fields["field"] == "name"


@pytest.mark.parametrize("field", ["name", "mimetype", "metadata", "hash"])
def test_a_lone_surrogate_is_malformed(job: SignedJob, field: str) -> None:
    body = json.dumps({**announcement(b"x"), field: "\ud800"}).encode()
    answer = job.send("PUT", f"/upload/default/{job.info.job_id}/model", body)
    assert answer.error == (400, "malformed")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["hash", "challenge", "sha256", "size", "name", "mimetype", "metadata"]


@hostile
@given(name=st.text(st.sampled_from("ab./\\\0 ~:é")) | st.text(max_size=300))
def test_any_name_is_accepted_or_malformed(job: SignedJob, name: str) -> None:
    answer = announce(job, "model", secrets.token_bytes(SIZE), name=name)
    assert answer.status == 200 or answer.error == (400, "malformed")


@hostile
@given(fields=st.dictionaries(st.sampled_from(FIELDS), json_values, min_size=1))
def test_any_announcement_is_answered(job: SignedJob, fields: dict[str, Any]) -> None:
    body = {**announcement(secrets.token_bytes(SIZE)), **fields}
    for path in (f"/upload/default/{job.info.job_id}/model", "/task/inputs/default/data"):
        answer = job.send("PUT", path, body)
        assert answer.status == 200 or answer.error in {(400, "malformed"), (413, "too_large")}, answer


@hostile
@given(
    fields=st.dictionaries(
        st.sampled_from(["action", "property", "index", "sha256"]), json_values, min_size=1
    )
)
def test_any_reference_is_answered(job: SignedJob, fields: dict[str, Any]) -> None:
    reference = {"action": UNKNOWN, "property": "model", "index": 0, "sha256": "0" * 64, **fields}
    assert link_input(job, "data", reference).error in {(400, "malformed"), (404, "no_such_file")}


# --- links in the folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder beside the store."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


class KeptFile:
    """An uploaded file, and its location."""

    def __init__(self, job: SignedJob, folder: Folder) -> None:
        upload(job, "model", secrets.token_bytes(SIZE))
        self._job = job
        (self.path,) = folder.contents()

    def get(self) -> Answer:
        """Download its content."""
        url = locate(self._job, "model").fields["Location"]
        return content_request(self._job.client, "GET", url)


@pytest.fixture
def kept(own_job: SignedJob, folder: Folder) -> KeptFile:
    return KeptFile(own_job, folder)


def moved_behind_a_link(path: Path, elsewhere: Path) -> None:
    """Move a file or folder elsewhere, and replace it with a symbolic link."""
    target = elsewhere / path.name
    shutil.move(path, target)
    path.symlink_to(target)


@pytest.mark.parametrize("depth", [0, 1, 2], ids=["content", "its folder", "contents"])
def test_a_content_behind_a_symlink_is_not_served(kept: KeptFile, elsewhere: Path, depth: int) -> None:
    path = [kept.path, *kept.path.parents][depth]
    assert kept.get().status == 200
    moved_behind_a_link(path, elsewhere)
    assert kept.get().error == (503, "file_store_unavailable")


def test_what_took_the_place_of_a_content_is_not_given(kept: KeptFile) -> None:
    kept.path.unlink()
    assert kept.get().error == (404, "content_lost")
    kept.path.mkdir()
    assert kept.get().status in {404, 503}


def test_a_truncated_content_is_not_served_as_complete(kept: KeptFile) -> None:
    kept.path.write_bytes(kept.path.read_bytes()[:-1])
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        kept.get()


@pytest.mark.parametrize("name", ["incoming", "contents", "contents/*"])
def test_nothing_is_written_through_a_link(
    own_job: SignedJob, folder: Folder, elsewhere: Path, name: str
) -> None:
    names = [name.replace("*", f"{shard:02x}") for shard in range(256)] if "*" in name else [name]
    for each in names:
        link = folder.root / each
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(elsewhere)
    before, content = folder.names(), secrets.token_bytes(SIZE)
    url = announce(own_job, "model", content).fields["url"]
    assert put_content(own_job, url, content).error == (503, "file_store_unavailable")
    assert list(elsewhere.iterdir()) == []
    assert folder.names() == before
    assert locate(own_job, "model").error == (404, "no_such_file")


def test_the_folder_itself_may_be_a_link(own_job: SignedJob, folder: Folder, elsewhere: Path) -> None:
    folder.root.symlink_to(elsewhere)
    content = secrets.token_bytes(SIZE)
    upload(own_job, "model", content)
    assert download(own_job, "model").content == content
