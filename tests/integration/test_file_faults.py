# SPDX-License-Identifier: Apache-2.0
"""Faults of uploads: mismatches, concurrency, full disks, broken connections and killed servers."""

from __future__ import annotations

import asyncio
import http.client
import random
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from airflow_asyncaction import settings
from airflow_asyncaction.files.garbage import collect
from airflow_asyncaction.files.stores.configured import FileStores
from airflow_asyncaction.protocol.digests import digests
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.web.app import create_app, create_asgi_app
from tests.integration.content_server import killed_server
from tests.integration.databases import Database
from tests.integration.file_servers import Folder, Kept, Serve
from tests.integration.file_transfers import (
    announce,
    content_request,
    download,
    locate,
    outputs,
    put_content,
    upload,
)
from tests.integration.running_tasks import RunningTask, running_task
from tests.integration.servers import served_alone
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, registered
from tests.requirements import leave_out

pytestmark = pytest.mark.integration

SIZE = 200_000
MIB = 1024 * 1024
MISMATCH = (412, "hash_mismatch")
NO_SUCH_FILE = (404, "no_such_file")
TOO_LARGE = (413, "too_large")


@pytest.fixture
def hook(alone: str) -> str:
    return alone


# --- not what was announced


@pytest.mark.parametrize(
    "wrong",
    [
        {"hash": "0" * 32},
        {"challenge": "0" * 32},
        {"sha256": "0" * 64},
        {"size": SIZE + 1},
        {"hash": digests([b"other"]).md5, "challenge": digests([b"other"]).challenge},
    ],
    ids="-".join,
)
def test_what_is_not_what_was_announced_is_not_kept(
    own_job: SignedJob, kept: Kept, wrong: dict[str, Any]
) -> None:
    content = secrets.token_bytes(SIZE)
    url = announce(own_job, "model", content, **wrong).fields["url"]
    assert put_content(own_job, url, content).error == MISMATCH
    assert locate(own_job, "model").error == NO_SUCH_FILE
    assert outputs(own_job) == []
    assert kept.is_nothing()
    assert put_content(own_job, url, content).error == NO_SUCH_FILE
    upload(own_job, "model", content)
    assert download(own_job, "model").content == content


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("too_many", [1, 3 * MIB])
def test_more_than_was_announced_is_refused(
    own_job: SignedJob, kept: Kept, is_chunked: bool, too_many: int
) -> None:
    content = secrets.token_bytes(SIZE + too_many)
    url = announce(own_job, "model", content, size=SIZE).fields["url"]
    sent = put_content(own_job, url, iter([content[:SIZE], content[SIZE:]]) if is_chunked else content)
    assert sent.error == TOO_LARGE
    assert locate(own_job, "model").error == NO_SUCH_FILE
    assert kept.is_nothing()


def test_a_file_that_is_too_large_is_refused(
    serve: Serve, new_task: Callable[..., RunningTask], kept: Kept
) -> None:
    job = registered(new_task(), serve(max_file_bytes=SIZE))
    content = secrets.token_bytes(SIZE + 1)
    assert announce(job, "model", content).error == TOO_LARGE
    url = announce(job, "model", content, size=None).fields["url"]
    assert put_content(job, url, content).error == TOO_LARGE
    assert put_content(job, url, iter([content])).error == TOO_LARGE
    assert locate(job, "model").error == NO_SUCH_FILE
    assert kept.is_nothing()
    assert upload(job, "model", content[1:]) == 1  # the first place is kept for what was announced


def test_an_action_has_not_more_files_than_it_may(serve: Serve, new_task: Callable[..., RunningTask]) -> None:
    job = registered(new_task(), serve(max_files=2))
    contents = [secrets.token_bytes(10) for _ in range(3)]
    upload(job, "a", contents[0])
    upload(job, "b", contents[1])
    assert announce(job, "c", contents[2]).error == (409, "too_many_files")
    assert announce(job, "a", contents[0]).fields["done"] is True


def test_another_content_does_not_pass_for_one_that_is_there(own_job: SignedJob, kept: Kept) -> None:
    content, other = secrets.token_bytes(SIZE), secrets.token_bytes(SIZE)
    url = announce(own_job, "model", content).fields["url"]
    assert put_content(own_job, url, content).status == 200
    assert put_content(own_job, url, other).error == MISMATCH
    assert download(own_job, "model").content == content
    assert kept.is_one()


def test_a_late_upload_does_not_undo_a_newer_announcement(own_job: SignedJob) -> None:
    before, after = secrets.token_bytes(SIZE), secrets.token_bytes(SIZE)
    late = announce(own_job, "model", before, name="m").fields["url"]
    url = announce(own_job, "model", after, name="m").fields["url"]
    assert put_content(own_job, late, before).error == MISMATCH
    assert put_content(own_job, url, after).status == 200
    assert download(own_job, "model").content == after


class CancelledPut:
    """A PUT that the server cancels at some point after it has received the whole body, as on a shutdown."""

    def __init__(self, app: ASGIApp, hook_path: str) -> None:
        self._app, self._root = app, hook_path

    def send(self, path: str, content: bytes, *, after_seconds: float) -> None:
        """Send it, and wait until all of its tasks have ended."""
        asyncio.run(self._send(path, content, after_seconds))

    async def _send(self, path: str, content: bytes, after_seconds: float) -> None:
        has_come = asyncio.Event()

        async def receive() -> dict[str, Any]:
            has_come.set()
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(_: MutableMapping[str, Any]) -> None:
            """The client has disconnected."""

        scope = {"type": "http", "method": "PUT", "path": self._root + path, "root_path": self._root}
        request = asyncio.ensure_future(self._app({**scope, "headers": []}, receive, send))
        await has_come.wait()
        await asyncio.sleep(after_seconds)
        request.cancel()
        await asyncio.wait([request])
        await asyncio.sleep(0.05)  # for what its threads still do


def test_a_request_that_is_cancelled_attaches_nothing_that_is_not_kept(
    database: Database, folder: Folder, new_job: NewJob, actions: Actions
) -> None:
    services = open_services(folder.options())
    put = CancelledPut(create_asgi_app(services), settings.load().url)
    with served_alone(create_app(services)) as hook, HookClient(hook) as client:
        for number in range(40):
            job, content = new_job().on(client), secrets.token_bytes(SIZE)
            url = announce(job, "model", content).fields["url"]
            put.send(url.removeprefix(hook), content, after_seconds=number * 0.0004)
            if locate(job, "model").status == 200:
                assert download(job, "model").content == content
    assert_kept_as_told(folder, database)
    collect(actions.database, services.stores, older_than=timedelta(0), now=datetime.now(UTC))
    assert len(folder.names()) == len(folder.attached_rows(database.engine))


# --- at once


def at_once(job_of: Callable[[int], Callable[[HookClient], Answer]], hook: str, many: int) -> list[Answer]:
    """Run a function in many threads at the same time, each with its own connection."""
    barrier = threading.Barrier(many)

    def run(number: int) -> Answer:
        with HookClient(hook) as client:
            work = job_of(number)
            barrier.wait(10)
            return work(client)

    with ThreadPoolExecutor(many) as pool:
        return list(pool.map(run, range(many)))


def test_a_content_that_many_jobs_send_at_once_is_one(
    own_job: SignedJob, new_task: Callable[..., RunningTask], folder: Folder, database: Database
) -> None:
    for round_ in range(1, 4):
        content = secrets.token_bytes(SIZE)
        jobs = [registered(new_task(), own_job.client) for _ in range(8)]
        urls = [announce(job, "model", content).fields["url"] for job in jobs]

        def send(
            number: int, urls: list[str] = urls, content: bytes = content
        ) -> Callable[[HookClient], Answer]:
            return lambda client: content_request(client, "PUT", urls[number], content)

        answers = at_once(send, own_job.client.hook, 8)
        assert [answer.status for answer in answers] == [200] * 8, answers
        assert all(download(job, "model").content == content for job in jobs)
        rows = folder.content_rows(database.engine)
        assert (len(rows), len(folder.names())) == (round_, round_)


def test_a_file_that_is_sent_twice_at_once_is_one(own_job: SignedJob, kept: Kept) -> None:
    content = secrets.token_bytes(SIZE)
    url = announce(own_job, "model", content).fields["url"]
    answers = at_once(
        lambda _: lambda client: content_request(client, "PUT", url, content), own_job.client.hook, 4
    )
    assert [answer.status for answer in answers] == [200] * 4
    assert [answer.fields["Map"]["index"] for answer in answers] == [0] * 4
    assert download(own_job, "model").content == content
    assert kept.is_one()


def test_files_that_are_announced_at_once_have_indexes_of_their_own(own_job: SignedJob) -> None:
    def send(number: int) -> Callable[[HookClient], Answer]:
        return lambda client: announce(own_job.on(client), "model", bytes([number]), name=f"part{number}")

    answers = at_once(send, own_job.client.hook, 8)
    assert sorted(answer.fields["index"] for answer in answers) == list(range(8))


# --- a full disk


@pytest.fixture
def small_disk(folder: Folder) -> Iterator[Path]:
    """Mount a disk of 1 MiB at the folder of the store."""
    folder.root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder.root)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        refused = done.stderr if done.returncode else ""
    except OSError as error:
        refused = str(error)
    if refused:
        leave_out("no disk can be mounted: run the tests as root")
    try:
        yield folder.root
    finally:
        subprocess.run(["umount", "--lazy", str(folder.root)], check=True, timeout=10)


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_reported(own_job: SignedJob, kept: Kept, folder: Folder, is_chunked: bool) -> None:
    content = secrets.token_bytes(3 * MIB)
    url = announce(own_job, "model", content).fields["url"]
    sent = put_content(own_job, url, iter([content]) if is_chunked else content)
    assert sent.error == (507, "no_space")
    assert str(folder.root) not in sent.fields["message"]
    assert kept.is_nothing()
    assert locate(own_job, "model").error == NO_SUCH_FILE
    upload(own_job, "small", content[:SIZE])
    assert download(own_job, "small").content == content[:SIZE]


# --- a server that is killed


@dataclass
class Sender:
    """A job that uploads files to a server that is repeatedly killed."""

    job: SignedJob
    announced: dict[str, bytes] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    failures: int = 0

    def send_until(self, stop: threading.Event) -> None:
        """Upload one file after another, and give up only those whose connection breaks."""
        while not stop.is_set():
            name = f"file{len(self.announced)}"
            self.announced[name] = random.randbytes(random.choice([0, 100, 30_000, MIB])) + name.encode()  # noqa: S311
            try:
                with HookClient(self.job.client.hook) as client:
                    upload(self.job.on(client), name, self.announced[name], name=name)
                self.stored.add(name)
            except (OSError, http.client.HTTPException):
                self.failures += 1
                time.sleep(0.02)


@contextmanager
def sending(senders: list[Sender]) -> Iterator[None]:
    """Let all of them upload files in the meantime."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(senders)) as pool:
        running = [pool.submit(sender.send_until, stop) for sender in senders]
        try:
            yield
        finally:
            stop.set()
        for each in running:
            each.result()


def test_a_server_that_is_killed_leaves_no_file_that_is_not_whole(
    database: Database, folder: Folder, alone: str, actions: Actions
) -> None:
    environ = {"AIRFLOW__ASYNCACTION__FILE_STORES": f'{{"{folder.store}": "{folder.root.as_uri()}"}}'}
    with HookClient(alone) as client, killed_server(environ) as server:
        jobs = [registered(running_task(database.engine), client) for _ in range(4)]
        hook = HookClient(f"http://127.0.0.1:{server.port}{settings.load().url}")
        senders = [Sender(job.on(hook)) for job in jobs]
        server.start()
        with sending(senders):
            for kills in range(50):
                if kills >= 10 and failed_by(senders) >= 5:
                    break
                wait_for_uploads(senders, 1)  # on a busy machine, the server takes long to start
                time.sleep(random.uniform(0.0, 0.3))  # noqa: S311
                server.kill()
                server.start()
            wait_for_uploads(senders, 5)
        for sender in senders:
            assert_whole(sender)
    assert failed_by(senders) >= 5
    assert stored_by(senders) >= 5
    assert_kept_as_told(folder, database)
    stores = FileStores(folder.options().file_stores)
    collect(actions.database, stores, older_than=timedelta(0), now=datetime.now(UTC))
    rows = folder.content_rows(database.engine)
    assert folder.names() == {f"contents/{row.id[-2:]}/{row.id}" for row in rows}
    assert {row.id for row in rows} == {row.content_id for row in folder.attached_rows(database.engine)}


def wait_for_uploads(senders: Sequence[Sender], count: int) -> None:
    """Wait until more files are stored."""
    wanted, give_up_at = stored_by(senders) + count, time.monotonic() + 60
    while stored_by(senders) < wanted and time.monotonic() < give_up_at:
        time.sleep(0.02)


def failed_by(senders: Sequence[Sender]) -> int:
    """Return the number of uploads whose connection broke."""
    return sum(sender.failures for sender in senders)


def stored_by(senders: Sequence[Sender]) -> int:
    return sum(len(sender.stored) for sender in senders)


def assert_whole(sender: Sender) -> None:
    """Check that stored files are complete, and that all acknowledged files are stored."""
    with HookClient(sender.job.client.hook) as client:
        job = sender.job.on(client)
        for name, content in sender.announced.items():
            located = locate(job, name)
            if name not in sender.stored and located.status == 404:
                continue
            assert located.status == 200, located
            expected, said = digests([content]), located.fields["Map"]
            assert content_request(client, "GET", located.fields["Location"]).body == content
            assert (said["size"], said["hash"], said["sha256"]) == (
                expected.size_bytes,
                expected.md5,
                expected.sha256,
            )


def assert_kept_as_told(folder: Folder, database: Database) -> None:
    """Make sure that every attached file has its content."""
    ids = {path.name for path in folder.contents()}
    for row in folder.attached_rows(database.engine):
        assert row.content_id in ids
