# SPDX-License-Identifier: Apache-2.0
"""One complete Airflow for all system tests: started before the first, stopped after the last.

All runs that need no interaction are started at once. The tests then check them one after the other.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from sqlalchemy import create_engine

from dev.deployment import USER, Deployment
from dev.s3 import S3Server
from tests.airflow_release import HAS_REGIONS
from tests.requirements import kube_or_skip, s3_or_skip
from tests.shared import SharedServices
from tests.system.browser import browser_or_skip
from tests.system.command_lines import CommandLines
from tests.system.kube_scene import KubeScene
from tests.system.runners import in_pods, on_laptop
from tests.system.scene import PATIENCE_SECONDS, Scene

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LAST = (
    "test_form.py",
    "test_page.py",
    "test_stopping.py",
    "test_faults.py",
    "test_secrets.py",
    "test_routed_pods.py",
    "test_pods.py",
    "test_pod_faults.py",
)
"""Modules that disturb others run after them, and those that check everything run last."""

LOOP_DAGS = [HERE / "loop_dags"] if HAS_REGIONS else []
LOOP_POD_DAGS = [HERE / "loop_pod_dags"] if HAS_REGIONS else []
collect_ignore = [] if HAS_REGIONS else ["test_loops.py", "test_loop_pods.py"]

PRELOADED = [f"airflow_asyncaction.operators.{name}" for name in ("local", "remote", "routed", "service")]
"""Modules of operators, whose imports take a second of each task process."""

PAGES = ("page_leave", "page_harm", "page_silent", "page_talk")
"""Dags whose finished runs are shown in tests of the page."""

UNATTENDED = (
    *PAGES,
    "ends",
    "callables",
    "wide",
    "pooled",
    "files_on_default",
    "files_on_lake",
    "files_from_everywhere",
    "routed_by_type",
)
KUBE_UNATTENDED = ("pods_deferred", "pods_waited_for", "routed_by_type")
EXAMPLES = {
    "fan_out": ("curl", "openssl"),
    "files": ("curl", "openssl"),
    "nightly": (),
    "node_job": ("node",),
    "python_callable": (),
    "retries": (),
    "routed": ("nice",),
    "shell_job": ("curl", "openssl"),
    "unmodified_program": (),
}
"""Example Dags that end without interaction, and the programs that they need."""

PEOPLE = f"{USER}:admin,viewer:viewer"
CORE = {
    "simple_auth_manager_users": PEOPLE,
    # Tasks of test_remote wait in their workers for operations that run here too: there is room for both.
    "parallelism": "10",
}
CONFIG = {
    # An outage of the API server alone must not end tasks, even on a slow machine.
    "workers": {
        "min_heartbeat_interval": "1",
        "execution_api_retries": "60",
        "execution_api_retry_wait_max": "2",
    },
    "scheduler": {
        "task_instance_heartbeat_timeout": "45",
        "task_instance_heartbeat_timeout_detection_interval": "2",
        "scheduler_health_check_threshold": "45",  # a busy scheduler must not take its own tasks for orphans
        "orphaned_tasks_check_interval": "3",
    },
    # With Airflow's 15, a busy machine has the API server answer 500: a task then needs a second try.
    "database": {"sql_alchemy_pool_size": "20", "sql_alchemy_max_overflow": "20"},
    # Some tests send hundreds of invalid requests.
    "asyncaction": {"poll_interval": "0.5", "max_requests_per_second": "1000"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the system tests first, in a fixed order."""

    def rank(item: pytest.Item) -> int:
        if item.path.parent != HERE:
            return len(LAST) + 1
        return LAST.index(item.path.name) + 1 if item.path.name in LAST else 0

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add unfinished tasks and the end of the scheduler's output to the report of a failure."""
    report = yield
    if report.failed and call.excinfo and item.path.parent == HERE:
        for name in ("shared_scene", "kube"):
            scene = getattr(item, "funcargs", {}).get(name)
            if isinstance(scene, Scene):
                report.sections += [
                    ("tasks that had not ended", "\n".join(scene.unfinished())),
                    ("scheduler", scene.deployment.scheduler.tail(30)),
                ]
    return report


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_or_skip() as server:
        server.create_bucket("lake")
        server.create_bucket("elsewhere")
        server.put("elsewhere", "far.txt", b"far")
        server.put("elsewhere", "far/deep/er.txt", b"deeper\n")
        yield server


@pytest.fixture(scope="session")
def canary() -> str:
    """Return a secret that a job of the Dag ``results`` leaks."""
    return f"canary-{secrets.token_hex(16)}"


@pytest.fixture(scope="session")
def password() -> str:
    """Return the password of the connection ``masked``."""
    return f'p@ss "word"/{secrets.token_hex(8)}'


@pytest.fixture(scope="session")
def shared_scene(
    shared: SharedServices,
    s3: S3Server,
    canary: str,
    password: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """Return the deployment, with a run of each Dag that needs no interaction."""
    home, folder = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("marks")
    (folder / "inputs" / "sub").mkdir(parents=True)
    (folder / "inputs" / "one.txt").write_text("one\n")
    (folder / "inputs" / "sub" / "two.txt").write_text("two\n")
    stores = {"default": (home / "asyncaction").as_uri(), "lake": "s3://aws_test@lake/files"}
    ours = {**CONFIG["asyncaction"], "file_stores": json.dumps(stores), "runners": on_laptop()}
    url = shared.migrated_postgres("system")
    engine = create_engine(url)
    deployment = Deployment(
        home,
        dags=[ROOT / "example_dags", HERE / "dags", HERE / "page_dags", *LOOP_DAGS],
        database_url=url,
        is_migrated=True,
        config={**CONFIG, "core": CORE, "asyncaction": ours},
        environ={
            "ASYNCACTION_TEST_FOLDER": str(folder),
            "AIRFLOW_CONN_AWS_TEST": s3.connection,
            "AIRFLOW_CONN_MASKED": json.dumps({"conn_type": "generic", "password": password}),
        },
        preload=PRELOADED,
    )
    try:
        with CommandLines() as command_lines, deployment:
            scene = Scene(deployment, engine, folder, command_lines)
            scene.api.wait_for_dags(
                {*EXAMPLES, *UNATTENDED, "stopping", "stops"}, timeout_seconds=PATIENCE_SECONDS
            )
            scene.api.create_pool("narrow", slots=1)
            scene.trigger(*UNATTENDED)
            scene.trigger("results", conf={"canary": canary})
            scene.trigger(
                *(dag_id for dag_id, programs in EXAMPLES.items() if all(map(shutil.which, programs)))
            )
            yield scene
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def scene(shared_scene: Scene) -> Scene:
    """Return the deployment. Modules may override it with their own scene."""
    return shared_scene


@pytest.fixture(scope="session")
def kube(shared: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeScene]:
    """Return the deployment whose jobs are pods, with a run of each Dag that needs no interaction."""
    home = tmp_path_factory.mktemp("kube")
    with kube_or_skip() as cluster:
        url = shared.migrated_postgres("pods")
        engine = create_engine(url)
        deployment = Deployment(
            home,
            dags=[HERE / "kube_dags", *LOOP_POD_DAGS],
            database_url=url,
            is_migrated=True,
            config={
                **CONFIG,
                "core": {"parallelism": "4", "dagbag_import_timeout": "120"},
                "asyncaction": {**CONFIG["asyncaction"], "runners": in_pods()},
            },
            environ=cluster.environ,
            preload=["airflow_asyncaction.operators.kubernetes"],  # its imports take seconds of a core
            pods_reach_us_at=cluster.host,
        )
        try:
            with CommandLines() as command_lines, deployment:
                scene = KubeScene(deployment, engine, command_lines, cluster)
                scene.api.wait_for_dags({*KUBE_UNATTENDED, "nightly_pods"}, timeout_seconds=PATIENCE_SECONDS)
                scene.trigger(*KUBE_UNATTENDED)
                yield scene
        finally:
            engine.dispose()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browser_or_skip() as browser:
        yield browser
