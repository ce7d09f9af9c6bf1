# SPDX-License-Identifier: Apache-2.0
"""Files of jobs in a complete Airflow, on the local store and on S3."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from airflow_asyncaction.protocol.digests import digests
from tests.requirements import need
from tests.system.scene import Scene, eventually

pytestmark = pytest.mark.system

STORES = ("default", "lake")


def files_of(scene: Scene, dag_id: str, task_id: str) -> dict[str, list[dict[str, Any]]]:
    files = scene.api.xcoms(scene.key(dag_id, task_id))["files"]
    assert isinstance(files, dict)
    return files


@pytest.mark.parametrize("store", STORES)
def test_what_a_job_leaves_is_an_xcom(scene: Scene, store: str) -> None:
    dag_id = f"files_on_{store}"
    assert scene.end_of(dag_id) == "success"
    files = files_of(scene, dag_id, "leave")
    assert set(files) == {"parts", "large"}
    assert [(file["index"], file["name"], file["size"]) for file in files["parts"]] == [
        (0, "a", 1000),
        (1, "b", 1000),
        (2, "c", 1000),
    ]
    (large,) = files["large"]
    content = bytes(3_000_000)
    assert large["md5"] == digests([content]).md5
    assert large["sha256"] == hashlib.sha256(content).hexdigest()
    assert large["action"] == scene.action(dag_id, "leave").id
    assert (large["store"], large["mimetype"]) == (store, "application/octet-stream")
    assert large["uri"].startswith("file:///" if store == "default" else "s3://aws_test@lake/files/")
    assert files["parts"][2]["metadata"] == {"letter": "c"}


@pytest.mark.parametrize("store", STORES)
def test_another_task_has_it_without_a_copy(scene: Scene, store: str) -> None:
    dag_id = f"files_on_{store}"
    scene.end_of(dag_id)
    events = scene.events(dag_id, "have")
    assert "input large[0] large: 2.9 MiB, already stored" in events
    assert "a" * 1000 + "b" * 1000 + "c" * 1000 + "3000000" in events
    letters = [
        letter
        for index in range(3)
        for letter in scene.events(dag_id, "each", map_index=index)
        if letter in ("a", "b", "c")
    ]
    assert letters == ["a", "b", "c"]
    scheme = "file" if store == "default" else "s3"
    result = scene.api.xcoms(scene.key(dag_id, "in_a_callable"))["return_value"]
    assert result == ["b", scheme]


@pytest.mark.parametrize("store", STORES)
def test_the_task_log_tells_of_every_file(scene: Scene, store: str) -> None:
    dag_id = f"files_on_{store}"
    scene.end_of(dag_id)
    events = scene.events(dag_id, "leave")
    for what in ("output parts[0] a: 1000 B", "output parts[2] c: 1000 B", "output large[0] large: 2.9 MiB"):
        (line,) = [event for event in events if event.startswith(what)]
        assert line.endswith(" MiB/s")
    (again,) = [e for e in scene.events(dag_id, "in_a_callable") if e.startswith("output again[0] b: 1000 B")]
    assert again.endswith("already stored")
    downloads = [event for event in scene.events(dag_id, "have") if event.startswith("downloaded ")]
    assert len(downloads) == 4


@pytest.mark.parametrize("store", STORES)
def test_an_attached_output_updates_its_asset(scene: Scene, store: str) -> None:
    dag_id = f"files_on_{store}"
    scene.end_of(dag_id)
    files = files_of(scene, dag_id, "leave")
    all_events = scene.api.asset_events(dag_id)
    names = sorted(event["name"] for event in all_events)
    assert names == [f"large_on_{store}", f"mapped_on_{store}", f"mapped_on_{store}", f"parts_on_{store}"]
    events = {event["name"]: event for event in all_events}
    (large,) = files["large"]
    extra = events[f"large_on_{store}"]["extra"]
    assert (extra["size"], extra["sha256"]) == (3_000_000, large["sha256"])
    assert events[f"parts_on_{store}"]["extra"]["files"] == files["parts"]


def test_inputs_come_from_everywhere(scene: Scene) -> None:
    scene.end_of("files_from_everywhere")
    assert scene.state_of("files_from_everywhere", "have") == "success"
    events = scene.events("files_from_everywhere", "have")
    found = ["./folder/one.txt", "./folder/sub/two.txt", "./one.txt", "./prefix/deep/er.txt"]
    assert [event for event in events if event.startswith("./")] == found
    assert {"one", "deeper"} <= set(events)
    assert [event for event in events if event.startswith("input many[1] far.txt")]


def test_an_input_that_is_not_there_is_named(scene: Scene) -> None:
    assert scene.state_of("files_from_everywhere", "missing") == "failed"
    action = scene.action("files_from_everywhere", "missing")
    assert (action.state, action.error_name) == ("ERROR", "InputFailed")
    assert "inputs['it']: " in (action.error_message or "")
    assert "does not exist" in (action.error_message or "")
    assert "not reached" not in scene.events("files_from_everywhere", "missing")


def test_a_failed_job_may_leave_files(scene: Scene) -> None:
    assert scene.state_of("files_from_everywhere", "fails") == "failed"
    assert scene.action("files_from_everywhere", "fails").error_name == "ExitCode"
    names = [file["name"] for file in files_of(scene, "files_from_everywhere", "fails")["trace"]]
    assert names == ["a.log", "b.log"]


def test_the_example_leaves_files(scene: Scene) -> None:
    need("curl", "openssl")
    assert scene.end_of("files") == "success"
    (counts,) = files_of(scene, "files", "count")["counts"]
    (best,) = files_of(scene, "files", "best")["best"]
    assert (counts["name"], best["name"]) == ("counts.csv", "best.txt")
    assert best["sha256"] == hashlib.sha256(b"ada,3\n").hexdigest()


def test_no_token_is_in_the_access_log(scene: Scene) -> None:
    scene.end_of("files_on_default")

    def put() -> list[str]:
        lines = (scene.deployment.home / "api-server.log").read_text().splitlines()
        return [line for line in lines if "/async/content/" in line]

    lines = eventually(put, "the access log has uploads")
    assert all("/async/content/..." in line for line in lines)


def test_garbage_can_be_collected_meanwhile(scene: Scene) -> None:
    scene.end_of("files_on_default")
    done = scene.deployment.cli("asyncaction", "files", "gc", "--older-than", "0")
    assert done.returncode == 0, done.stderr
    assert "Removed 0 stored objects (0 B in total)" in done.stdout
