# SPDX-License-Identifier: Apache-2.0
"""Job files, against a real server that cuts connections."""

from __future__ import annotations

import hashlib
import io
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, ClassVar

import pytest

from airflow_asyncaction.exceptions import AsyncActionError, MalformedRequest
from airflow_asyncaction.job import Job, ServerError, ServerUnreachable, Superseded, Timing
from airflow_asyncaction.job.content_client import ContentClient
from airflow_asyncaction.job.file_transfer import Source, fetch_file, send_file
from airflow_asyncaction.job.files import find_files
from airflow_asyncaction.protocol.digests import Digests, digests
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.testing import JobServer, TestedJob
from airflow_asyncaction.testing.files import StoredFile
from tests.requirements import need
from tests.unit.tested_jobs import sent_logs

ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024
CONTENT = os.urandom(3 * MIB + 17)


@pytest.fixture
def direct() -> Iterator[JobServer]:
    with JobServer(direct_uploads=True) as server:
        yield server


def write(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def paths(tested: TestedJob) -> list[tuple[str, str]]:
    return [(each.method, each.path.split("/")[1]) for each in tested.requests if each.path != "/status"]


@pytest.mark.parametrize("size_bytes", [0, 1, MIB, 20 * MIB])
def test_round_trip(tested: TestedJob, job: Job, tmp_path: Path, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    file = job.upload("model", write(tmp_path / "model.csv", content), metadata={"rows": 3})
    assert (file.name, file.property, file.index, file.size_bytes) == ("model.csv", "model", 0, size_bytes)
    assert (file.mimetype, file.metadata) == ("text/csv", {"rows": 3})
    assert file.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    (stored,) = tested.files["model"]
    assert (stored.name, stored.mimetype, stored.metadata) == ("model.csv", "text/csv", {"rows": 3})
    assert stored.content == content
    back = job.download("model", tmp_path / "back" / "b.csv")
    assert back == tmp_path / "back" / "b.csv"
    assert back.read_bytes() == content
    assert list((tmp_path / "back").iterdir()) == [back]


def test_a_download_is_logged_by_the_job_and_an_upload_is_not(
    tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    tested.add_file("dataset", "x.csv", bytes(12_300_000))
    job.download("dataset", tmp_path)
    job.upload("model", tmp_path / "x.csv")
    job.flush()
    (line,) = sent_logs(tested)
    assert line.startswith("downloaded dataset[0] x.csv: 11.7 MiB in ")


def test_a_download_goes_to_a_path_or_into_a_folder(tested: TestedJob, job: Job, tmp_path: Path) -> None:
    tested.add_file("data", "a/x.csv", b"0")
    tested.add_file("data", "y.csv", b"1")
    assert job.download("data", str(tmp_path / "new") + "/") == tmp_path / "new" / "a" / "x.csv"
    assert job.download("data", tmp_path, index=1) == tmp_path / "y.csv"
    assert job.download("data", tmp_path / "z", index=1).read_bytes() == b"1"


def test_files_of_another_action(server: JobServer, job: Job, tmp_path: Path) -> None:
    upstream = server.new_job()
    upstream.add_file("data", "x", b"theirs")
    assert job.download("data", tmp_path, of=upstream.info.job_id).read_bytes() == b"theirs"


def test_all_files_of_a_property(tested: TestedJob, job: Job, tmp_path: Path) -> None:
    for name in ("b", "a/c", "a/d"):
        tested.add_file("data", name, name.encode())
    fetched = job.download_all("data", tmp_path / "new")
    assert [path.relative_to(tmp_path / "new").as_posix() for path in fetched] == ["b", "a/c", "a/d"]
    assert [path.read_bytes() for path in fetched] == [b"b", b"a/c", b"a/d"]


def test_two_files_of_one_name_are_not_lost_silently(tested: TestedJob, job: Job, tmp_path: Path) -> None:
    tested.add_file("data", "x", b"0")
    tested.add_file("data", "x", b"1")
    with pytest.raises(AsyncActionError, match="two files named x"):
        job.download_all("data", tmp_path)
    assert (tmp_path / "x").read_bytes() == b"0"


def test_no_such_file(job: Job, tmp_path: Path) -> None:
    for fetch in (job.download, job.download_all):
        with pytest.raises(ServerError) as caught:
            fetch("data", tmp_path)
        assert (caught.value.status, caught.value.code) == (404, "no_such_file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\x", ".", "..", "", "a//b", "x\n"])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    tested: TestedJob, job: Job, tmp_path: Path, name: str
) -> None:
    tested.add_file("data", name, b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    for fetch in (job.download, job.download_all):
        with pytest.raises(AsyncActionError, match="points outside"):
            fetch("data", folder)
    assert list(tmp_path.rglob("*")) == [folder]


def test_a_link_that_leads_out_of_the_folder_is_not_followed(
    tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    tested.add_file("data", "link/x", b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(AsyncActionError, match="points outside"):
        job.download_all("data", tmp_path / "folder")


@pytest.mark.parametrize("after_bytes", [0, 1])
def test_a_cut_download_resumes(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path, after_bytes: int
) -> None:
    tested.add_file("data", "x", CONTENT)
    server.break_transfers(2, after_bytes)
    path = job.download("data", tmp_path)
    assert path.read_bytes() == CONTENT
    assert paths(tested) == [("GET", "download")] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_download_resumes(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    tested.add_file("data", "x", CONTENT)
    server.break_transfers(1000, MIB)  # no connection lasts for more
    assert job.download("data", tmp_path).read_bytes() == CONTENT
    assert paths(tested) == [("GET", "download")] * 4


class _PlainStore(BaseHTTPRequestHandler):
    """Knows no ranges, and cuts its first answer."""

    asked_for: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.asked_for.append(self.headers.get("Range"))
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:MIB] if len(self.asked_for) == 1 else CONTENT)

    def do_PUT(self) -> None:
        body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>secret</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Stay quiet."""


@pytest.fixture
def plain_store() -> Iterator[str]:
    _PlainStore.asked_for = []
    with HTTPServer(("127.0.0.1", 0), _PlainStore) as store:
        thread = Thread(target=store.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{store.server_address[1]}/bucket?X-Signature=secret"
        store.shutdown()
        thread.join()


def test_a_download_restarts_if_the_server_has_no_ranges(plain_store: str, tmp_path: Path) -> None:
    known = digests([CONTENT])
    described = {"name": "x", "size": known.size_bytes, "mimetype": "a/b", "metadata": {}, "index": 0}
    answer = {"Location": plain_store, "Map": {**described, "hash": known.md5, "sha256": known.sha256}}
    _, path = fetch_file(
        lambda _request: answer,
        "/download/default/uuid/data/0",
        lambda file: tmp_path / file.name,
        contents=ContentClient(),
    )
    assert path.read_bytes() == CONTENT
    assert _PlainStore.asked_for == [None, f"bytes={MIB}-"]


def test_an_object_stores_refusal_is_reported_without_quotes_of_secrets(plain_store: str) -> None:
    answer = {"done": False, "index": 0, "url": plain_store, "method": "PUT", "complete": True}
    source = Source("m", lambda: io.BytesIO(b"x"))
    with pytest.raises(ServerError, match="refused the content with status 403 AccessDenied") as caught:
        send_file(lambda _request: answer, "/upload/x/model", source, contents=ContentClient())
    assert "secret" not in str(caught.value)


def test_files_of_an_action_that_has_ended(tested: TestedJob, job: Job, tmp_path: Path) -> None:
    job.result(1)
    job.upload("model", write(tmp_path / "m"))  # the process still runs
    tested.exit(Exit(code=0))
    with pytest.raises(ServerError) as caught:
        job.upload("model", write(tmp_path / "n", b"another"))
    assert caught.value.code == "already_ended"
    tested.supersede()
    for transfer in (job.upload, job.download):
        with pytest.raises(Superseded):
            transfer("model", tmp_path / "m")


def test_an_expired_url_is_requested_again(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    tested.add_file("data", "x", CONTENT)
    server.refuse_transfers(2, 403, "bad_token")
    assert job.download("data", tmp_path).read_bytes() == CONTENT
    server.refuse_transfers(1, 403, "bad_token")
    job.upload("model", write(tmp_path / "m", b"model"))
    assert tested.files["model"][0].content == b"model"


def test_urls_that_are_never_taken_are_not_asked_for_for_ever(
    server: JobServer, job: Job, tmp_path: Path
) -> None:
    server.refuse_transfers(9, 403, "bad_token")
    with pytest.raises(ServerError) as caught:
        job.upload("model", write(tmp_path / "m"))
    assert (caught.value.status, caught.value.code) == (403, "bad_token")
    assert "/content/" not in str(caught.value)


def test_what_was_there_stays_if_a_download_fails(
    server: JobServer, tested: TestedJob, tmp_path: Path
) -> None:
    tested.add_file("data", "x", CONTENT)
    write(tmp_path / "x", b"old")
    server.break_transfers(9, 0)
    with (
        Job(tested.info, timing=Timing(report_patience_seconds=0.2)) as job,
        pytest.raises(ServerUnreachable) as caught,
    ):
        job.download("data", tmp_path)
    assert "/content/" not in str(caught.value)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("after_bytes", [0, 1, 2 * MIB])
def test_an_upload_cut_in_the_middle_is_sent_again(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path, after_bytes: int
) -> None:
    server.break_transfers(2, after_bytes)
    file = job.upload("model", write(tmp_path / "m", CONTENT))
    assert [each.content for each in tested.files["model"]] == [CONTENT]
    assert (file.index, paths(tested)) == (0, [("PUT", "upload")] * 3)


@pytest.mark.parametrize("status", [408, 429, 500, 501, 503, 507, 599])
def test_an_upload_survives_an_outage(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path, status: int
) -> None:
    server.refuse_transfers(1, status, "busy")
    job.upload("model", write(tmp_path / "m", CONTENT))
    assert tested.files["model"][0].content == CONTENT


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (412, "hash_mismatch", "upload it again"),
        (413, "too_large", "upload a smaller file"),
        (507, "no_space", "free space"),
        (409, "already_ended", "before you report the end"),
        (410, "superseded", "superseded"),
    ],
)
def test_a_refused_content_is_reported_with_advice(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path, status: int, code: str, advice: str
) -> None:
    server.refuse_transfers(1, status, code)
    with pytest.raises(ServerError, match=advice) as caught:
        job.upload("model", write(tmp_path / "m", bytes(30 * MIB)))
    assert (caught.value.status, caught.value.code) == (status, code)
    assert isinstance(caught.value, Superseded) == (status == 410)
    assert tested.files["model"] == []


def test_a_content_that_is_stored_is_not_sent(server: JobServer, job: Job) -> None:
    server.new_job().add_file("data", "theirs", CONTENT)
    server.break_transfers(1, 0)
    source = Source("m", lambda: io.BytesIO(CONTENT))
    target = f"/upload/default/{job.info.job_id if job.info else ''}/model"
    sent = send_file(job.send, target, source, contents=ContentClient(), patience_seconds=0)
    assert (sent.name, sent.property) == ("m", "model")


def test_uploaded_twice_it_is_one_file_and_under_two_names_two(
    tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    path = write(tmp_path / "m", CONTENT)
    assert [job.upload("model", path, name=name).index for name in ("a", "a", "sub/b")] == [0, 0, 1]
    assert [file.name for file in tested.files["model"]] == ["a", "sub/b"]


def test_straight_to_an_object_store(direct: JobServer, tmp_path: Path) -> None:
    tested = direct.new_job()
    with Job(tested.info) as job:
        job.upload("model", write(tmp_path / "m", CONTENT))
        direct.break_transfers(1, MIB)
        job.upload("model", write(tmp_path / "n", CONTENT[::-1]))
    assert [file.content for file in tested.files["model"]] == [CONTENT, CONTENT[::-1]]
    assert paths(tested).count(("POST", "upload")) == 2


class Changing:
    """A content that is another each time it is opened."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = list(contents)

    def open(self) -> BinaryIO:
        return io.BytesIO(self._contents.pop(0))


@pytest.mark.parametrize(
    "contents",
    [(b"a" * 9, b"a" * 10), (b"a" * 9, b"a" * 8), (b"a" * 9, b"b" * 9, b"b" * 9)],
    ids=["longer", "shorter", "other"],
)
@pytest.mark.parametrize("is_direct", [False, True])
def test_a_file_that_changes_while_it_is_uploaded(contents: tuple[bytes, ...], is_direct: bool) -> None:
    with JobServer(direct_uploads=is_direct) as server:
        tested = server.new_job()
        with Job(tested.info) as job:
            target = f"/upload/default/{tested.info.job_id}/model"
            source = Source("growing.log", Changing(*contents).open)
            with pytest.raises(ServerError, match=r"growing.log changed during the upload") as caught:
                send_file(job.send, target, source, contents=ContentClient())
    assert (caught.value.status, caught.value.code) == (412, "hash_mismatch")
    assert tested.files["model"] == []


def test_a_file_that_vanishes_while_it_is_uploaded_is_no_outage(tested: TestedJob, job: Job) -> None:
    contents = [io.BytesIO(b"x")]

    def open_once() -> BinaryIO:
        if not contents:
            raise FileNotFoundError(2, "No such file or directory")
        return contents.pop()

    target = f"/upload/default/{tested.info.job_id}/model"
    with pytest.raises(AsyncActionError, match="m cannot be read: FileNotFoundError"):
        send_file(job.send, target, Source("m", open_once), contents=ContentClient())


class Mislabelled(StoredFile):
    @cached_property
    def digests(self) -> Digests:
        return digests([self.content[::-1]])


def test_a_content_that_differs_from_the_servers_description_is_discarded(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    server._files.add(tested.info.job_id, "data", Mislabelled("x", CONTENT))
    with pytest.raises(AsyncActionError, match="content of x does not match its size and digests"):
        job.download("data", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_and_patterns_are_uploaded_by_relative_name(
    tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name in ("b.csv", "a/z.csv", "a/.hidden", "a/b/c.txt"):
        write(out / name, name.encode())
    (out / "empty").mkdir()
    (out / "link").symlink_to(out / "b.csv")
    (out / "loop").symlink_to(out)
    (out / "dangling").symlink_to(out / "nowhere")
    everything = ["a/.hidden", "a/b/c.txt", "a/z.csv", "b.csv", "link"]
    files = job.upload_all("all", out, metadata={"day": 1})
    assert [file.name for file in files] == everything
    assert [file.name for file in tested.files["all"]] == everything
    assert tested.files["all"][2].content == b"a/z.csv"
    assert {json.dumps(file.metadata) for file in tested.files["all"]} == {'{"day": 1}'}
    assert [each.name for each in find_files(out / "a" / "**" / "*")] == ["b/c.txt", "z.csv"]
    assert [each.name for each in find_files(f"{out}/*.csv")] == ["b.csv"]
    assert [each.name for each in find_files(out / "a" / "z.csv")] == ["z.csv"]


def test_a_name_with_wildcards_that_is_there_is_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].csv")
    write(tmp_path / "a1.csv")
    assert [each.path for each in find_files(path)] == [path]


def test_relative_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.csv")
    monkeypatch.chdir(tmp_path)
    assert [each.name for each in find_files("*.csv")] == ["x.csv"]


@pytest.mark.parametrize("path", ["missing", "*.none", "empty", "missing/**"])
def test_nothing_to_upload_is_an_error(job: Job, tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No such file"):
        job.upload_all("model", tmp_path / path)


@pytest.mark.parametrize("name", ["../x", "a\\b", "x" * 256, "/x", "a\x00"])
def test_a_name_that_cannot_be_one_is_not_sent(
    tested: TestedJob, job: Job, tmp_path: Path, name: str
) -> None:
    with pytest.raises(AsyncActionError, match="Invalid file name"):
        job.upload("model", write(tmp_path / "m"), name=name)
    assert paths(tested) == []


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a/b", "x" * 65, "ü"])
def test_a_property_that_cannot_be_one_is_not_sent(tested: TestedJob, job: Job, name: str) -> None:
    with pytest.raises(MalformedRequest):
        job.download(name, "x")
    assert paths(tested) == []


@pytest.mark.parametrize(
    ("name", "mimetype"),
    [("x.json", "application/json"), ("x", "application/octet-stream"), ("x.csv.gz", "application/gzip")],
)
def test_mimetypes_are_guessed(tmp_path: Path, name: str, mimetype: str) -> None:
    assert Job(None).upload("model", write(tmp_path / name)).mimetype == mimetype
    assert Job(None).upload("model", tmp_path / name, mimetype="a/b").mimetype == "a/b"


def test_outside_airflow_uploads_are_digested_and_downloads_refused(tmp_path: Path) -> None:
    job = Job(None)
    file = job.upload("model", write(tmp_path / "m", b"abc"))
    assert (file.name, file.size_bytes) == ("m", 3)
    assert file.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert [each.name for each in job.upload_all("model", tmp_path)] == ["m"]
    with pytest.raises(AsyncActionError, match="not started by Airflow"):
        job.download("data", tmp_path)


def test_a_long_transfer_shows_its_progress_and_gives_the_jobs_own_back(
    server: JobServer, tested: TestedJob, job: Job, tmp_path: Path
) -> None:
    server.slow_transfers(2 * MIB)
    tested.add_file("data", "x", CONTENT)
    job.progress(7, "working")
    job.flush()
    job.download("data", tmp_path)
    job.flush()
    shown = [json.loads(each.status_details) for each in tested.reports if each.status_details is not None]
    assert shown[0] == shown[-1] == {"progress": 7, "message": "working"}
    assert shown[1]["message"] == "downloading data[0]"
    assert 50 < shown[1]["progress"] < 100
    assert len(shown) == 3


def test_a_url_that_cannot_be_used_is_not_opened() -> None:
    for url in ("file:///etc/passwd", "ftp://h/x", "//h/x", "http://[", ""):
        with pytest.raises(ServerError, match="not http"):
            ContentClient().get(url, {})


CONSTANT_MEMORY = """
import resource, sys
from pathlib import Path
from airflow_asyncaction.job import open_job
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with open_job() as job:
    job.upload("warm", sys.argv[1] + "/small"); job.download("warm", sys.argv[1] + "/back")
    before = peak()
    job.upload("big", sys.argv[1] + "/big")
    job.download("big", sys.argv[1] + "/back")
    print(peak() - before)
"""


def test_100_mib_in_constant_memory(tested: TestedJob, tmp_path: Path) -> None:
    write(tmp_path / "small")
    with (tmp_path / "big").open("wb") as sparse:
        sparse.truncate(100 * MIB)
    done = subprocess.run(
        [sys.executable, "-c", CONSTANT_MEMORY, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **tested.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert int(done.stdout) < 32 * MIB
    assert (tmp_path / "back").stat().st_size == 100 * MIB


def test_over_tls(tmp_path: Path) -> None:
    need("openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=test"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(made, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    write(tmp_path / "m", CONTENT)
    code = "import sys; from airflow_asyncaction.job import *\n"
    code += (
        "with open_job() as job: job.upload('model', sys.argv[1]); job.download('model', sys.argv[1] + '2')"
    )
    with JobServer(tls=tls) as server:
        tested = server.new_job()
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "m")],
            env={**os.environ, "PYTHONPATH": str(ROOT), **tested.environ, "SSL_CERT_FILE": str(certificate)},
            capture_output=True,
            check=False,
        )
    assert done.stderr == b""
    assert (tmp_path / "m2").read_bytes() == CONTENT
