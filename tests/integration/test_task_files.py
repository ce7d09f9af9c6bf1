# SPDX-License-Identifier: Apache-2.0
"""Task files: inputs that a task uploads or links for its job, and the outputs that it lists."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_asyncaction.protocol.digests import digests
from tests.integration.file_servers import Folder
from tests.integration.file_transfers import (
    announce,
    announce_input,
    announcement,
    download,
    give_input,
    link_input,
    locate,
    outputs,
    put_content,
    upload,
)
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import NewJob, SignedJob, registered

pytestmark = pytest.mark.integration

SIZE = 1000


def test_a_task_gives_its_job_a_file(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    give_input(job, "data", content, name="data.csv", mimetype="text/csv")
    found = download(job, "data")
    assert (found.content, found.map["name"], found.map["mimetype"]) == (content, "data.csv", "text/csv")
    assert outputs(job) == []


def test_a_file_is_passed_on_without_a_copy(
    own_job: SignedJob, new_task: Callable[..., RunningTask], folder: Folder
) -> None:
    content = secrets.token_bytes(SIZE)
    upload(own_job, "model", content, name="m.bin", metadata={"a": 1})
    (record,) = outputs(own_job)
    later = registered(new_task(), own_job.client)
    answer = link_input(later, "data", record)
    assert (answer.status, answer.fields["done"]) == (200, True)
    found = download(later, "data")
    assert (found.content, found.map["name"], found.map["metadata"]) == (content, "m.bin", {"a": 1})
    assert len(folder.contents()) == 1
    assert link_input(later, "data", record).fields == answer.fields
    assert locate(later, "data", 1).error == (404, "no_such_file")


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"index": 1},
        {"index": 2**31 - 1},
        {"property": "other"},
        {"action": "01890000-0000-7000-8000-000000000000"},
    ],
    ids=str,
)
def test_a_missing_file_cannot_be_passed_on(new_job: NewJob, change: dict[str, Any]) -> None:
    job, later = new_job(), new_job()
    upload(job, "model", secrets.token_bytes(SIZE))
    (record,) = outputs(job)
    assert link_input(later, "data", {**record, **change}).error == (404, "no_such_file")
    assert locate(later, "data").error == (404, "no_such_file")


@pytest.mark.parametrize("action", ["no uuid", "", "\0", 7, None])
def test_what_names_no_action_cannot_be_given_on(new_job: NewJob, action: Any) -> None:
    job, later = new_job(), new_job()
    upload(job, "model", secrets.token_bytes(SIZE))
    (record,) = outputs(job)
    assert link_input(later, "data", {**record, "action": action}).error == (400, "malformed")


def test_a_file_that_was_not_uploaded_cannot_be_passed_on(new_job: NewJob) -> None:
    job, later = new_job(), new_job()
    content = secrets.token_bytes(SIZE)
    announce(job, "model", content)
    reference = {
        "action": job.info.job_id,
        "property": "model",
        "index": 0,
        "sha256": digests([content]).sha256,
    }
    assert link_input(later, "data", reference).error == (404, "no_such_file")


def test_a_job_leaves_nothing_among_its_inputs(job: SignedJob) -> None:
    give_input(job, "data", secrets.token_bytes(SIZE), name="a")
    assert announce(job, "data", secrets.token_bytes(SIZE), name="b").error == (409, "property_taken")
    upload(job, "model", secrets.token_bytes(SIZE))
    taken = announce_input(job, "model", secrets.token_bytes(SIZE), name="b")
    assert taken.error == (409, "property_taken")


def test_a_job_does_not_leave_an_input_as_its_output(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    give_input(job, "data", content, name="a")
    assert announce(job, "data", content, name="a").error == (409, "property_taken")


def test_a_job_does_not_take_over_an_input_that_has_not_arrived(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    announced = announce_input(job, "data", content, name="a")
    assert announce(job, "data", secrets.token_bytes(SIZE), name="a").error == (409, "property_taken")
    assert put_content(job, announced.fields["url"], content).status == 200
    assert outputs(job) == []


def test_a_task_lists_the_outputs_of_its_job(own_job: SignedJob, folder: Folder) -> None:
    content = secrets.token_bytes(SIZE)
    give_input(own_job, "data", secrets.token_bytes(SIZE))
    upload(own_job, "model", content, name="a/m.bin", mimetype="text/csv", metadata={"b": [2]})
    upload(own_job, "model", content + b"1")
    announce(own_job, "model", content + b"2", name="late")
    first, second = outputs(own_job)
    uri = first.pop("uri")
    assert Path(uri.removeprefix("file://")).read_bytes() == content
    assert first == {
        "name": "a/m.bin",
        "property": "model",
        "index": 0,
        "size": SIZE,
        "mimetype": "text/csv",
        "md5": digests([content]).md5,
        "sha256": digests([content]).sha256,
        "store": folder.store,
        "metadata": {"b": [2]},
        "action": own_job.info.job_id,
    }
    assert (second["index"], second["name"], second["size"]) == (1, "model", SIZE + 1)


def test_v1_is_not_enough_for_the_files_of_a_task(job: SignedJob) -> None:
    routes = [
        ("PUT", "/task/inputs/default/data", announcement(b"x")),
        ("POST", "/task/inputs/data/link", {}),
        ("POST", "/task/inputs/default/data/0/complete", {}),
        ("GET", "/task/outputs", {}),
    ]
    for method, path, body in routes:
        assert job.send_v1(method, path, body).error == (401, "bad_signature")


def test_files_are_logged(new_job: NewJob) -> None:
    content = secrets.token_bytes(10_000)
    job, later = new_job(), new_job()
    upload(job, "model", content, name="model.bin")
    (line,) = job.view().logs
    assert re.fullmatch(r"output model\[0\] model\.bin: 9\.8 KiB in \d+\.\d\d s, \d+\.\d MiB/s", line.message)
    give_input(later, "data", content, name="x")
    assert [line.message for line in later.view().logs] == ["input data[0] x: 9.8 KiB, already stored"]
