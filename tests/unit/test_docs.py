# SPDX-License-Identifier: Apache-2.0
"""Documentation: lists all errors, options and metrics, its links work, and the site builds."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_asyncaction import exceptions
from airflow_asyncaction.job import Job
from airflow_asyncaction.operators import task_exceptions
from airflow_asyncaction.protocol import refusals as protocol_refusals
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.settings import OPTIONS
from airflow_asyncaction.testing import TestedJob
from airflow_asyncaction.web import refusals
from docs import hooks
from tests.requirements import need

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [ROOT / name for name in ("CONTRIBUTING.md", "PROTOCOL.md", "README.md", "SECURITY.md")]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)")


@pytest.fixture(scope="module")
def code_texts() -> str:
    """All string literals of the package."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "airflow_asyncaction").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


def page(name: str) -> str:
    return hooks.expand_includes((DOCS / name).read_text())


def headings(name: str) -> set[str]:
    """Return the names in the headings. A heading may list several errors."""
    lines = re.findall(r"^#+ (.+)$", page(name), re.MULTILINE)
    return {word for line in lines for word in line.split(", ")}


def below(kind: type[exceptions.AsyncActionError]) -> list[type[exceptions.AsyncActionError]]:
    children = kind.__subclasses__()
    return [*children, *(found for child in children for found in below(child))]


def refusal_codes() -> set[str]:
    """Return every ``error`` code that a route may return."""
    source = "".join(Path(module.__file__ or "").read_text() for module in (protocol_refusals, refusals))
    codes = set(re.findall(r'(?:(?:Refusal|cls)\(\s*\d+|HTTP_CODES\.get\(status), "(\w+)"', source))
    for name, table in {**vars(protocol_refusals), **vars(refusals)}.items():
        if name.endswith("_STATUS"):
            codes |= set(table)
        elif name == "HTTP_CODES":
            codes |= set(table.values())
    return codes | {kind.code for kind in below(exceptions.ProtocolError) if "code" in vars(kind)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", below(exceptions.ActionEnded), ids=lambda kind: kind.__name__)
def test_each_error_of_an_action_is_explained(kind: type[exceptions.ActionEnded]) -> None:
    if kind in (
        exceptions.ActionFailed,
        exceptions.ActionTimedOut,
        exceptions.ActionStopped,
        exceptions.PodFailed,
        task_exceptions.ActionSkipped,
        task_exceptions.StopRequested,
    ):
        assert f"`{kind.__name__}`" in page("troubleshooting.md")
    else:
        assert kind.__name__ in headings("troubleshooting.md")


def test_each_error_name_is_explained() -> None:
    given = re.compile(r'(?:reason=|State\.[A-Z]+, )"([A-Z]\w+)"|return "([A-Z][a-z]\w+)", f"')
    sources = [path.read_text() for path in (ROOT / "airflow_asyncaction").rglob("*.py")]
    named = {name for text in sources for match in given.findall(text) for name in match if name}
    assert {"GuardLost", "CommandNotFound", "InputFailed", "NoReport", "RunFailed", "PodDeleted"} <= named
    explained = headings("troubleshooting.md") | {"PodFailed"}
    assert named | {reason.value for reason in StopReason} <= explained


def test_error_codes_are_found() -> None:
    assert {"bad_signature", "internal", "no_such_file", "too_many", "csrf"} <= refusal_codes()


@pytest.mark.parametrize("code", sorted(refusal_codes()))
def test_each_error_code_is_explained(code: str) -> None:
    assert f"\n| `{code}` |" in page("troubleshooting.md")


def test_no_unknown_error_code_is_explained() -> None:
    explained = set(re.findall(r"^\| `([a-z_]+)` \| \d", page("troubleshooting.md"), re.MULTILINE))
    assert explained - refusal_codes() == set()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_option_is_in_the_reference(option: Any) -> None:
    assert option.name in headings("configuration.md")
    assert option.description in page("configuration.md")


def test_each_member_of_the_job_is_in_the_table() -> None:
    members = {name for name in vars(Job) if not name.startswith("_")}
    assert members - set(re.findall(r"`(\w+)(?:\(.*?\))?`", page("job-client.md"))) == set()


def test_each_option_of_run_is_in_the_table() -> None:
    command = [sys.executable, "-m", "airflow_asyncaction.job", "run", "--help"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    text = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^ +(?:-h, )?(--[\w-]+)", text, re.MULTILINE)) - {"--help"}
    assert options == set(re.findall(r"^\| `(--[\w-]+)", page("job-client.md"), re.MULTILINE))


def test_each_metric_is_in_the_table() -> None:
    from airflow_asyncaction.store.metrics import METRICS

    assert all(f"`{metric.name}`" in page("metrics.md") for metric in METRICS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kubernetes/first-pod.md", "No Kubernetes cluster can be used"),
        ("kubernetes/first-pod.md", "The Kubernetes API cannot be reached"),
        ("kubernetes/first-pod.md", "The cluster does not accept Airflow's credentials"),
        ("kubernetes/first-pod.md", "Pods cannot reach "),
        ("troubleshooting.md", "No JOB_ variables are set"),
        ("troubleshooting.md", "a job needs Python 3.8 or newer"),
        ("troubleshooting.md", "No task watched action "),
        ("troubleshooting.md", "the pod's events say more, but Airflow cannot read them"),
    ],
)
def test_quoted_messages_are_those_of_the_code(name: str, message: str, code_texts: str) -> None:
    assert message in page(name)
    assert message in code_texts


def test_options_in_pages_exist() -> None:
    known = {option.name for option in OPTIONS}
    named = {
        name for path in [*PAGES, *READMES] for name in re.findall(r"\[asyncaction\] (\w+)", path.read_text())
    }
    assert named - known == set()


def test_states_in_the_protocol_exist() -> None:
    named = re.findall(
        r"\b(SCHEDULED|QUEUED|STARTING|RUNNING|SUCCESS|ERROR|TIMEOUT|STOPPED)\b", page("protocol.md")
    )
    assert set(named) == {state.value for state in State}


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and GitHub have them."""
    text = hooks.expand_includes(path.read_text()) if path.is_relative_to(DOCS) else path.read_text()
    outside_code = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", outside_code, re.MULTILINE)
    return {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}


@pytest.mark.parametrize("path", [*PAGES, *READMES], ids=lambda path: path.stem)
def test_links_of_a_page_work_in_a_checkout(path: Path) -> None:
    broken = []
    for file, anchor in LINK.findall(path.read_text()):
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{file}#{anchor}")
    assert broken == []


def test_includes_are_linked_in_a_checkout() -> None:
    included = [line for path in PAGES for line in path.read_text().splitlines() if "<!-- include: " in line]
    assert len(included) >= 10
    assert [
        line for line in included if not re.match(r" *\[[^]]+\]\([^)]+\) <!-- include: .+ -->$", line)
    ] == []


def test_the_table_of_the_http_api_has_each_route() -> None:
    api = yaml.safe_load((ROOT / "airflow_asyncaction" / "web" / "openapi.yaml").read_text())
    routes = {
        (method.upper(), path)
        for path, item in api["paths"].items()
        for method in item
        if method in {"get", "put", "post", "delete"}
    }
    documented = re.findall(r"^\| `([A-Z]+) (/[^`?]*)", page("http-api.md"), re.MULTILINE)
    assert set(documented) == routes | {("GET", "/openapi.json")}


@pytest.mark.parametrize(
    ("program", "script"), [("sh", "load.sh"), (sys.executable, "load.py"), ("node", "load.mjs")]
)
def test_jobs_of_the_quick_start_report(program: str, script: str, server: Any, tmp_path: Path) -> None:
    need(program, *(["curl", "openssl"] if program == "sh" else []))
    for path in (DOCS / "quickstart" / script, ROOT / "example_dags" / "jobs" / "signing.sh"):
        shutil.copy(path, tmp_path)
    job: TestedJob = server.new_job(arguments={"table": "orders"})
    environ = {**os.environ, **job.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([program, str(tmp_path / script)], env=environ, check=True, timeout=60)
    assert job.action.state is State.SUCCESS
    assert job.action.results == '{"rows":1200}'
    assert json.loads(job.action.status_details or "") == {"progress": 75, "message": "loading"}
    assert len(job.logs) == 3


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    outside = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="?https?://')
    for path in (tmp_path / "site").rglob("*.html"):
        assert not outside.search(path.read_text()), f"{path.name} needs a network"
