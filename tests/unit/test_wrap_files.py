# SPDX-License-Identifier: Apache-2.0
"""``run --input --output -- CMD`` with real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob

ROOT = Path(__file__).parent.parent.parent
RUN = (sys.executable, "-m", "airflow_asyncaction.job", "run", "--heartbeat-interval", "0.05")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}
MIB = 1024 * 1024
GENEROUS_SECONDS = 60.0


def start(tested: TestedJob | None, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*RUN, *arguments],
        env={**CLEAN, "PYTHONPATH": str(ROOT), **(tested.environ if tested else {})},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tested: TestedJob | None, folder: Path, *arguments: str) -> tuple[int, str, str]:
    return finish(start(tested, folder, *arguments))


def finish(wrapper: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = wrapper.communicate(timeout=GENEROUS_SECONDS)
    return wrapper.returncode, out, err


def wait_for_heartbeats(tested: TestedJob) -> None:
    tested.wait_until(lambda tested: sum(report.is_heartbeat for report in tested.reports) >= 2)


def test_inputs_are_there_when_the_program_starts_and_outputs_go_when_it_has_ended(
    tested: TestedJob, tmp_path: Path
) -> None:
    tested.add_file("config", "c.json", b"{}")
    tested.add_file("data", "x.csv", b"x")
    tested.add_file("data", "sub/y.csv", b"y")
    arguments = ["--input", "config=in/config", "--input", "data=in/data/"]
    arguments += ["--output", "model=out", "--output", "report=in/data/**/*.csv"]
    program = "cat in/config in/data/x.csv in/data/sub/y.csv; mkdir out; echo m >out/m; echo n >out/n"
    assert run(tested, tmp_path, *arguments, "--", "sh", "-c", program) == (0, "{}xy", "")
    assert tested.action.state is State.SUCCESS
    assert [(file.name, file.content) for file in tested.files["model"]] == [("m", b"m\n"), ("n", b"n\n")]
    assert [file.name for file in tested.files["report"]] == ["sub/y.csv", "x.csv"]
    assert tested.requests[-1].path == "/status"
    assert sum(line.message.startswith("downloaded ") for line in tested.logs) == 3


def test_an_existing_folder_takes_all_files(tested: TestedJob, tmp_path: Path) -> None:
    tested.add_file("data", "x", b"x")
    tested.add_file("data", "y", b"y")
    (tmp_path / "in").mkdir()
    assert run(tested, tmp_path, "--input", "data=in", "--", "ls", "in")[:2] == (0, "x\ny\n")


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "404 no_such_file"), (("x", "y"), "Specify a folder: in/")],
    ids=["none", "several"],
)
def test_without_its_input_the_program_is_not_started(
    tested: TestedJob, tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    for name in names:
        tested.add_file("data", name, b"")
    code, out, err = run(tested, tmp_path, "--input", "data=in", "--", "echo", "never")
    assert (code, out) == (125, "")
    assert said in err
    assert tested.action.error_name == "InputFailed"
    assert said in (tested.action.error_message or "")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_missing_is_a_failure(tested: TestedJob, tmp_path: Path) -> None:
    code, _, err = run(tested, tmp_path, "--output", "model=nowhere", "--", "true")
    assert code == 125
    assert "Output model could not be uploaded from nowhere" in err
    assert tested.action.error_name == "OutputFailed"
    assert (tested.action.error_message or "") in err


def test_an_output_that_is_refused_is_a_failure(server: JobServer, tested: TestedJob, tmp_path: Path) -> None:
    server.refuse_transfers(1, 507, "no_space")
    code, _, _ = run(tested, tmp_path, "--output", "model=m", "--", "touch", "m")
    assert (code, tested.action.error_name) == (125, "OutputFailed")
    assert "no_space" in (tested.action.error_message or "")


@pytest.mark.parametrize("is_wanted", [False, True])
def test_outputs_of_a_program_that_failed(tested: TestedJob, tmp_path: Path, is_wanted: bool) -> None:
    options = ["--output", "model=nowhere", "--output", "log=l"]
    options += ["--output-on-failure"] if is_wanted else []
    code, _, err = run(tested, tmp_path, *options, "--", "sh", "-c", "echo l >l; exit 3")
    assert (code, tested.action.error_name) == (3, "ExitCode")
    assert [file.content for file in tested.files.get("log", [])] == ([b"l\n"] if is_wanted else [])
    assert ("Output model could not be uploaded" in err) == is_wanted
    assert [line.level for line in tested.logs] == (["WARNING"] if is_wanted else [])


def test_outputs_of_a_program_that_was_killed(tested: TestedJob, tmp_path: Path) -> None:
    options = ["--output", "log=l", "--output-on-failure"]
    code, _, _ = run(tested, tmp_path, *options, "--", "sh", "-c", "echo l >l; kill -9 $$")
    assert (code, tested.action.error_name) == (-signal.SIGKILL, "Signal")
    assert [file.content for file in tested.files["log"]] == [b"l\n"]


@pytest.mark.parametrize(
    "arguments",
    [["--input", "data"], ["--input", "data="], ["--output", "=x"], ["--output", "a-b=x"], ["--input"]],
)
def test_wrong_usage(tested: TestedJob, tmp_path: Path, arguments: list[str]) -> None:
    code, out, err = run(tested, tmp_path, *arguments, "--", "echo", "never")
    assert (code, out) == (125, "")
    assert err.startswith("usage: ")
    assert tested.action.error_name == "WrapperFailed"


def test_outside_airflow_inputs_and_outputs_are_ignored(tmp_path: Path) -> None:
    code, out, err = run(None, tmp_path, "--input", "a=b", "--output", "c=d", "--", "echo", "x")
    assert (code, out) == (0, "x\n")
    said, ignored = err.splitlines()
    assert "nothing is reported" in said
    assert ignored == "airflow-asyncaction: Inputs and outputs are ignored: files only exist in a job"


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stop"])
def test_a_long_download_is_ended_by_a_signal_or_by_airflow(
    server: JobServer, tested: TestedJob, tmp_path: Path, how: str
) -> None:
    tested.add_file("data", "x", bytes(MIB))
    server.slow_transfers(20_000)
    wrapper = start(tested, tmp_path, "--input", "data=in/", "--", "echo", "never")
    wait_for_heartbeats(tested)
    tested.wait_until(lambda tested: any("/data/" in request.path for request in tested.requests))
    if how == "stop":
        tested.stop()
    else:
        wrapper.send_signal(signal.Signals[how])
    code, out, _ = finish(wrapper)
    assert (-code, out) == (signal.SIGTERM if how == "stop" else signal.Signals[how], "")
    assert tested.action.error_name == ("Stopped" if how == "stop" else "Signal")
    assert "while downloading inputs" in (tested.action.error_message or "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("how", ["SIGTERM", "stop"])
def test_a_long_upload_is_ended_by_a_signal_or_by_airflow(
    server: JobServer, tested: TestedJob, tmp_path: Path, how: str
) -> None:
    (tmp_path / "m").write_bytes(bytes(16 * MIB))
    server.slow_transfers(20_000)
    wrapper = start(tested, tmp_path, "--output", "model=m", "--", "true")
    tested.wait_until(lambda tested: any("/model" in request.path for request in tested.requests))
    if how == "stop":
        tested.stop()
    else:
        wrapper.terminate()
    code, _, _ = finish(wrapper)
    assert code == -signal.SIGTERM
    assert tested.action.error_name == ("Stopped" if how == "stop" else "Signal")
    assert tested.files["model"] == []


def test_heartbeats_go_on_during_a_download(server: JobServer, tested: TestedJob, tmp_path: Path) -> None:
    tested.add_file("data", "x", bytes(MIB))
    server.slow_transfers(2 * MIB)
    assert run(tested, tmp_path, "--input", "data=x", "--", "true")[0] == 0
    before = [request.path for request in tested.requests]
    assert before.count("/status") >= 4


ONE_THREAD = """
import threading
from airflow_asyncaction.job import open_job
from airflow_asyncaction.job.wrapper_files import Binding, fetch_inputs
job = open_job()
before = threading.active_count()
fetch_inputs(job, [Binding("data", "x")])
print(before, threading.active_count())
job.log("and again")
job.close()
"""


def test_the_program_is_started_by_a_process_of_one_thread(tested: TestedJob, tmp_path: Path) -> None:
    tested.add_file("data", "x", b"")
    done = subprocess.run(
        [sys.executable, "-c", ONE_THREAD],
        env={**CLEAN, "PYTHONPATH": str(ROOT), **tested.environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2 1\n"
    assert tested.logs[-1].message == "and again"
