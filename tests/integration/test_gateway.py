# SPDX-License-Identifier: Apache-2.0
"""Gateway: its command serves all that jobs call, with the documented permissions, and nothing else."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from sqlalchemy import func, select, text

from airflow_asyncaction import protocol
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.actions import Completion, State
from airflow_asyncaction.protocol.tasks import ActionSpec, Deferral, NeedsWorker
from airflow_asyncaction.store.models import report_table
from airflow_asyncaction.web.app import create_app
from dev.postgres import Postgres
from tests.airflow_release import HAS_REGIONS
from tests.integration.databases import Database
from tests.integration.file_transfers import announce, announce_input, content_request, download, upload
from tests.integration.gateways import Gateway, gateway
from tests.integration.running_tasks import RunningTask, running_task
from tests.integration.servers import served_alone
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, registered
from tests.integration.stored_dags import lineage_dag, run_of, store_dag
from tests.shared import WORKER

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("database", ["postgresql"], indirect=True, scope="session"),
]

ROLE = "gateway"
GRANTS = ("grants.sql", "grants-3.4.sql" if HAS_REGIONS else "grants-3.3.sql")
ENDS = json.loads((files(protocol) / "vectors" / "ends.json").read_text(encoding="utf-8"))
NO_ROUTE = (404, "no_such_route")
FOREIGN = (
    "airflow.api_fastapi.app.",
    "airflow.api_fastapi.auth.",
    "airflow.api_fastapi.core_api.app.",
    "airflow.api_fastapi.execution_api.app.",
    "airflow.cli.",
    "airflow.dag_processing.collection.",
    "airflow.dag_processing.dagbag.",
    "airflow.dag_processing.manager.",
    "airflow.dag_processing.processor.",
    "airflow.jobs.",
    "airflow.sdk.api.client.",  # of the task runner
    "airflow_asyncaction.plugins.",
    "airflow_asyncaction.web.reconciler.",
    "airflow_asyncaction.web.routes.tasks.",
    "airflow_asyncaction.web.routes.users.",
    "fastapi.",
    "flask_appbuilder.",
)
"""Modules that a gateway does not import: the API, login, the UI, Dag processing, and what serves others."""

NewDeferred = Callable[[Deferral], tuple[RunningTask, SignedJob]]


@pytest.fixture
def server() -> str:
    """Return how tasks are served: the gateway does not serve them."""
    return "alone"


@pytest.fixture(scope="module")
def role_url(database: Database) -> Iterator[str]:
    """Return the URL of the database for a role with the documented permissions."""
    name, password = f"{ROLE}_{WORKER}", secrets.token_hex(8)
    folder = Path(__file__).parents[2] / "docs" / "gateway"
    grants = "".join((folder / each).read_text(encoding="utf-8") for each in GRANTS)
    with database.engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"))
        connection.exec_driver_sql(grants.replace(f"TO {ROLE};", f"TO {name};"))
    address = database.url.rpartition("@")[2]
    yield f"postgresql+psycopg2://{name}:{password}@{address}"
    with database.engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture(scope="module")
def metrics_server() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        yield server


@pytest.fixture(scope="module")
def running(
    role_url: str, metrics_server: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    environ = {
        "PYTHONPROFILEIMPORTTIME": "1",  # its log names all modules that it imports
        "AIRFLOW__API__SECRET_KEY": "of all servers",
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_PORT": str(metrics_server.getsockname()[1]),
        "AIRFLOW__ASYNCACTION__FILE_STORES": json.dumps({"default": (folder / "files").as_uri()}),
    }
    with gateway(role_url, folder / "log", environ=environ) as running:
        yield running


@pytest.fixture
def jobs_client(running: Gateway) -> Iterator[HookClient]:
    with HookClient(running.hook) as client:
        yield client


@pytest.fixture
def new_gateway_job(new_job: NewJob, jobs_client: HookClient) -> NewJob:
    """Return what registers an action at another server, and returns its job at the gateway."""
    return lambda **spec: new_job(**spec).on(jobs_client)


@pytest.mark.parametrize("vector", ENDS, ids=lambda vector: str(vector["name"]))
def test_reports_are_served_as_by_the_api_server(new_gateway_job: NewJob, vector: dict[str, Any]) -> None:
    job = new_gateway_job()
    assert job.report(**vector["first"]).status == 200
    assert job.report(**vector["second"]).status == vector["answer"]


def test_all_routes_of_a_job_are_served(new_gateway_job: NewJob, running: Gateway) -> None:
    job, content = new_gateway_job(), secrets.token_bytes(1000)
    assert job.send("POST", "/", {"status": "RUNNING", "logs": ["a line"]}).status == 200
    assert job.send("POST", "/status", {"progress": 10}).fields["status"] == "RUNNING"
    assert job.send("GET", "/job").status == 200
    url = announce(job, "model", content).fields["url"]
    assert url.startswith(f"{running.hook}/content/")
    assert content_request(job.client, "PUT", url, content).status == 200
    assert job.send("POST", f"/upload/default/{job.info.job_id}/model/0/complete").status == 200
    downloaded = download(job, "model")
    assert downloaded.content == content
    assert content_request(job.client, "HEAD", downloaded.location).status == 200
    log = running.logged()
    assert re.search(r"request finished .* method=PUT path=/async/content/\.\.\. status_code=200", log)
    tokens = [each.rpartition("/")[2] for each in (url, downloaded.location)]
    assert [token for token in tokens if token in log] == []


def test_reports_are_counted(new_gateway_job: NewJob, metrics_server: socket.socket) -> None:
    assert new_gateway_job().report().status == 200
    while b"asyncaction.reports.accepted:1|c" not in metrics_server.recv(65_536):
        pass


def test_what_a_job_replaces_or_spoils_is_removed(new_gateway_job: NewJob, client: HookClient) -> None:
    job = new_gateway_job(max_log_lines=2)
    for lines in (["1", "2"], ["3", "4"]):
        assert job.report(logs=lines).status == 200
    assert [line.message for line in job.on(client).view().logs] == ["3", "4"]
    url = announce(job, "model", b"announced").fields["url"]
    assert content_request(job.client, "PUT", url, b"delivered").error == (412, "hash_mismatch")
    assert announce(job, "model", b"delivered").fields["index"] == 0


@pytest.fixture
def deferred(database: Database, client: HookClient, jobs_client: HookClient) -> NewDeferred:
    """Return what registers the action of a task, and defers the task."""
    with DAG("deferred-at-gateway", schedule=None) as dag:
        dag.relative_fileloc = "deferring.py"
        BaseOperator(task_id="task")
    store_dag(database.engine, dag)

    def new(deferral: Deferral) -> tuple[RunningTask, SignedJob]:
        task = run_of(database.engine, "deferred-at-gateway").first
        job = registered(task, client, completion=Completion.REPORT)
        assert job.send("POST", "/task/defer", deferral.to_json()).status == 200
        task.defer()
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE trigger SET created_date = created_date - interval '1 minute'"))
        return task, job.on(jobs_client)

    return new


def test_a_report_ends_a_deferred_task(deferred: NewDeferred) -> None:
    task, job = deferred(Deferral(needs_worker=NeedsWorker.ON_FAILURE))
    assert job.report(status="SUCCESS", results={"rows": 3}).status == 200
    assert (str(task.row().state), task.xcoms()) == ("success", {"return_value": {"rows": 3}})


def test_a_report_resumes_a_deferred_task(deferred: NewDeferred) -> None:
    task, job = deferred(Deferral(needs_worker=NeedsWorker.ALWAYS))
    assert job.report(status="ERROR", error={"name": "Broken"}).status == 200
    assert (str(task.row().state), task.row().next_method) == ("scheduled", "resume")


def test_jobs_and_tasks_reach_contents_at_their_own_urls(
    monkeypatch: pytest.MonkeyPatch, new_job: NewJob, client: HookClient, running: Gateway
) -> None:
    job, content = new_job(), secrets.token_bytes(100)
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__BASE_URL", running.hook)
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__TASK_URL", client.hook)
    with served_alone(create_app()) as hook, HookClient(hook) as configured:
        answers = announce(job.on(configured), "a", content), announce_input(job.on(configured), "b", content)
    assert [answer.fields["url"].partition("/content/")[0] for answer in answers] == [
        running.hook,
        client.hook,
    ]


def test_a_job_reports_to_the_gateway_and_its_task_asks_the_api_server(
    database: Database, client: HookClient, running: Gateway
) -> None:
    task = running_task(database.engine)
    hook = TaskHook(client.hook, hook_url=running.hook)
    registered = hook.register(task.ti_id, task.commit(), ActionSpec(type="test", runner="local"))
    command = [sys.executable, "-m", "airflow_asyncaction.job", "run", "--", "echo", "hello"]
    environ = {**os.environ, **registered.info.to_environ()}
    subprocess.run(command, env=environ, check=True, timeout=60, capture_output=True)
    view = hook.read(registered.credentials)
    assert (view.state, [line.message for line in view.logs]) == (State.SUCCESS, ["hello"])


def test_files_of_upstream_tasks_are_served(
    database: Database, client: HookClient, jobs_client: HookClient
) -> None:
    dag_id = f"lineage-{secrets.token_hex(4)}"
    store_dag(database.engine, lineage_dag(dag_id))
    run, content = run_of(database.engine, dag_id), secrets.token_bytes(100)
    far, reader = (registered(run.task(name, 0), client).on(jobs_client) for name in ("near", "reader"))
    upload(far, "model", content)
    assert download(reader, "model", of=far.info.job_id).content == content


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/task/register"),
        ("GET", "/task/action"),
        ("PUT", "/task/inputs/default/orders"),
        ("GET", "/actions"),
        ("PUT", "/some.operation"),
        ("GET", "/openapi.json"),
        ("GET", "/ui/"),
        ("POST", "/nothing/there"),
    ],
)
def test_the_routes_of_tasks_and_users_are_unknown(jobs_client: HookClient, method: str, path: str) -> None:
    assert jobs_client.send(method, path).error == NO_ROUTE


def test_paths_outside_of_the_routes_are_unknown(running: Gateway) -> None:
    with HookClient(running.url) as client:
        for path in ("/", "/status", "/api/v2/version", "/execution/", "/auth/login", "/asyncs/status"):
            assert client.send("GET", path).error == NO_ROUTE


def test_the_process_imports_no_other_part_of_airflow(running: Gateway, jobs_client: HookClient) -> None:
    jobs_client.send("GET", "/job")
    program = running.logged().rpartition("| imported package")[2]  # after that of the command
    imported = set(re.findall(r"^import time: .*\| +([\w.]+)$", program, re.MULTILINE))
    assert "airflow_asyncaction.web.gateway" in imported
    assert sorted(name for name in imported if f"{name}.".startswith(FOREIGN)) == []


def ready(client: HookClient, *, until: int) -> dict[str, Any]:
    """Poll ``/readyz`` until it responds with a status, and return the body."""
    while (answer := client.send("GET", "/readyz")).status != until:
        time.sleep(0.1)
    return answer.fields


def test_readiness_follows_the_database(
    running: Gateway, new_gateway_job: NewJob, postgres_server: Postgres
) -> None:
    job = new_gateway_job()
    with HookClient(running.url) as client:
        assert ready(client, until=200) == {
            "status": "ready",
            "checks": {"database": "ok", "tables": "ok", "file store default": "ok"},
        }
        with postgres_server.outage(f"airflow_{WORKER}"):
            fields = ready(client, until=503)
            assert (fields["error"], fields["checks"]) == (
                "not_ready",
                {"database": "The database is unavailable. Retry later."},
            )
            assert client.send("GET", "/healthz").fields == {"status": "alive"}
            assert job.report().error == (503, "unavailable")
        assert ready(client, until=200)["status"] == "ready"
    assert job.report().status == 200


def test_readiness_needs_the_tables(running: Gateway, database: Database) -> None:
    rename = "ALTER TABLE {} RENAME TO {}"
    with HookClient(running.url) as client:
        with database.engine.begin() as connection:
            connection.execute(text(rename.format("async_action_content", "renamed")))
        try:
            assert "airflow db migrate" in ready(client, until=503)["checks"]["tables"]
        finally:
            with database.engine.begin() as connection:
                connection.execute(text(rename.format("renamed", "async_action_content")))
        assert ready(client, until=200)["status"] == "ready"


@pytest.mark.race
def test_what_arrived_before_sigterm_is_answered_and_stored(
    database: Database, new_job: NewJob, role_url: str, tmp_path: Path
) -> None:
    jobs = [new_job() for _ in range(8)]
    with gateway(role_url, tmp_path / "log", "--workers", "2") as running:
        progress = threading.Barrier(len(jobs) + 1)

        def report(job: SignedJob) -> int:
            """Report until the gateway is gone, and return how many reports it has answered."""
            answered = 0
            with HookClient(running.hook) as client:
                while True:
                    try:
                        answer = job.on(client).report(progress=1)
                    except OSError:
                        return answered
                    assert answer.status == 200, answer
                    answered += 1
                    if answered == 5:
                        progress.wait()

        with ThreadPoolExecutor(len(jobs)) as threads:
            counts = threads.map(report, jobs)
            progress.wait()
            assert running.terminate() == 0
            answered = {job.info.job_id: count for job, count in zip(jobs, counts, strict=True)}
    query = select(report_table.c.action_id, func.count()).group_by(report_table.c.action_id)
    with database.engine.connect() as connection:
        stored = {
            row[0]: row[1] for row in connection.execute(query.where(report_table.c.action_id.in_(answered)))
        }
    assert stored == answered
