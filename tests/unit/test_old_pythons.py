# SPDX-License-Identifier: Apache-2.0
"""The job client runs on Python 3.8, the oldest supported version, and fails with one line on older ones."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob
from dev.zipapp import PACKAGE, PARTS
from tests.unit.old_pythons import OLDEST, installed, newer_expressions, newer_names, newer_than
from tests.unit.web_proxy import WebProxy

SOURCES = sorted(path for part in PARTS for path in PACKAGE.glob(part))
OLD_NAMES = ("python3.8", "python3.9", "python3.10", "pypy3")
OLD = installed((3, 8), (3, 9), (3, 10))
TOO_OLD = installed((2, 7), (3, 6), (3, 7))
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("JOB_", "PYTHON"))}


@pytest.fixture(params=OLD_NAMES)
def python(request: pytest.FixtureRequest) -> str:
    """Return an older Python. Versions that are not installed are skipped."""
    if request.param not in OLD:
        pytest.skip("an older Python is not installed: pyenv install 3.8 3.9 3.10, or apt-get install pypy3")
    return OLD[request.param]


def execute(
    tested: TestedJob | None, *command: str | Path, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**CLEAN, **(tested.environ if tested else {}), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_nothing_of_the_job_side_is_newer_than_python_3_8() -> None:
    assert newer_than(OLDEST, SOURCES) == []
    assert newer_names(SOURCES) == []
    assert newer_expressions(SOURCES) == []


@pytest.mark.parametrize(
    "code",
    [
        "from typing import Self",
        "from datetime import UTC",
        "import hashlib\nhashlib.md5(usedforsecurity=False)",
        "import subprocess\nsubprocess.Popen([], process_group=0)",
        "from dataclasses import dataclass\n@dataclass(kw_only=True)\nclass A: ...",
        "match 1:\n    case 1: ...",
        "def strip(text): return text.removeprefix('x')",
        "def below(path, folder): return path.resolve().is_relative_to(folder)",
        "Both = dict[str, int]",
        "from collections.abc import Callable\nSend = Callable[[int], int]",
        "class A: ...\nclass B: ...\nEither = A | B",
        "def check(value): return isinstance(value, int | str)",
        "def add(fields, more): fields |= more",
    ],
    ids=lambda code: code.splitlines()[-1][:40],
)
def test_what_is_newer_is_found(tmp_path: Path, code: str) -> None:
    source = tmp_path / "source.py"
    source.write_text(f"from __future__ import annotations\n{code}\n")
    assert newer_than(OLDEST, [source]) + newer_names([source]) + newer_expressions([source])


def test_annotations_may_be_newer(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("from __future__ import annotations\ndef f(a: int | None) -> dict[str, int]: ...\n")
    assert newer_than(OLDEST, [source]) + newer_names([source]) + newer_expressions([source]) == []


PROGRAM = """
import sys
from pathlib import Path
from airflow_asyncaction.job import open_job

with open_job() as job:
    job.progress(40, "loading")
    job.log("on Python %d.%d" % sys.version_info[:2], "warning")
    path = job.download("orders", sys.argv[1] + "/")
    job.upload("counts", path, metadata={"rows": job.arguments["rows"]})
    job.result({"size": path.stat().st_size})
"""


def test_the_client_reports_and_moves_files(
    server: JobServer, zipapp: Path, tmp_path: Path, python: str
) -> None:
    tested = server.new_job({"rows": 3})
    tested.add_file("orders", "a/orders.csv", b"1,2,3")
    server.lose_responses(1)
    with WebProxy() as proxy:
        environ = {"PYTHONPATH": str(zipapp), "http_proxy": proxy.place}
        done = execute(tested, python, "-c", PROGRAM, tmp_path, **environ)
        assert len(proxy.requests) >= 6
    assert (done.returncode, done.stderr) == (0, "")
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, '{"size":5}')
    assert tested.action.status_details == '{"progress":40,"message":"loading"}'
    assert [line.level for line in tested.logs] == ["WARNING", "INFO"]
    (counts,) = tested.files["counts"]
    assert (counts.content, counts.metadata, counts.mimetype) == (b"1,2,3", {"rows": 3}, "text/csv")


def test_the_wrapper_moves_files_and_passes_output_on(
    tested: TestedJob, zipapp: Path, tmp_path: Path, python: str
) -> None:
    tested.add_file("orders", "orders.csv", b"1,2,3")
    options = ["--input", f"orders={tmp_path}/in.csv", "--output", f"counts={tmp_path}/*.csv"]
    done = execute(tested, python, "-I", zipapp, "run", *options, "--", "cat", tmp_path / "in.csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1,2,3", "")
    assert tested.action.state is State.SUCCESS
    assert [line.message for line in tested.logs if line.stream] == ["1,2,3"]
    assert [file.name for file in tested.files["counts"]] == ["in.csv"]


def test_the_wrapper_stops_all_that_the_program_has_started(
    tested: TestedJob, zipapp: Path, python: str
) -> None:
    program = "sleep 600 & echo up; wait"
    command = [python, str(zipapp), "run", "--heartbeat-interval", "0.05", "--", "sh", "-c", program]
    with subprocess.Popen(command, env={**CLEAN, **tested.environ}, stdout=subprocess.DEVNULL) as wrapper:
        tested.wait_until(lambda tested: tested.logs)
        tested.stop()
        assert wrapper.wait(60) == -15
    assert (tested.action.state, tested.action.error_name) == (State.STOPPED, "Stopped")


def test_any_python_can_read_what_names_the_oldest(zipapp: Path, tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_bytes(zipfile.ZipFile(zipapp).read("__main__.py"))
    for version in ((2, 7), (3, 4)):
        assert newer_than(version, [main, PACKAGE / "__init__.py"]) == []


PRETEND = """
import sys
sys.version_info = (3, 6, 15, "final", 0)
code = sys.argv.pop(1)
exec(code)
"""
RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import airflow_asyncaction.job"

on_too_old_pythons = pytest.mark.parametrize(
    "start",
    [[sys.executable, "-c", PRETEND], *([python, "-c"] for python in TOO_OLD.values())],
    ids=["pretended", *TOO_OLD],
)


@on_too_old_pythons
def test_an_older_python_says_what_a_job_needs(tested: TestedJob, zipapp: Path, start: list[str]) -> None:
    done = execute(tested, *start, RUN, zipapp, "run", "--", "echo", "hi")
    assert (done.returncode, done.stdout) == (125, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"airflow-asyncaction: a job needs Python 3.8 or newer. {start[0]} is Python ")


@on_too_old_pythons
def test_an_import_in_an_older_python_says_so_too(zipapp: Path, start: list[str]) -> None:
    done = execute(None, *start, IMPORT, zipapp)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: airflow-asyncaction: a job needs Python 3.8")


@pytest.mark.parametrize("python", [sys.executable, *TOO_OLD.values()], ids=["this", *TOO_OLD])
def test_it_is_a_command_for_any_python(zipapp: Path, python: str) -> None:
    done = execute(None, python, zipapp, "run", "--", "true")
    assert done.returncode == (0 if python == sys.executable else 125)
    assert len(done.stderr.splitlines()) == 1
