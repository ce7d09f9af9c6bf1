# SPDX-License-Identifier: Apache-2.0
"""Fixtures: both databases with Airflow's complete schema, and both ways to serve the job routes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from airflow_asyncaction import settings
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.web.app import create_app
from dev.cluster import Cluster
from tests.airflow_release import HAS_REGIONS
from tests.integration.databases import Database
from tests.integration.file_servers import SERVERS, Folder, Kept, Serve, serving
from tests.integration.job_pods import JobPods, job_pods
from tests.integration.peers import SIZE, Peers, new_peers
from tests.integration.running_tasks import RunningTask, running_task
from tests.integration.servers import Uncompleted, served_alone, served_mounted
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, registered
from tests.requirements import kube_or_skip
from tests.shared import WORKER, SharedServices

collect_ignore = [] if HAS_REGIONS else ["test_loops.py"]


@pytest.fixture(scope="session")
def migrated(shared: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Database]:
    """Return a function that returns the database of a name. It is migrated on demand."""

    @cache
    def get(name: str) -> Database:
        if name == "sqlite":
            return Database(name, shared.migrated_sqlite(tmp_path_factory.mktemp("sqlite") / "airflow.db"))
        return Database(name, shared.migrated_postgres(f"airflow_{WORKER}"))

    return get


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database(migrated: Callable[[str], Database], request: pytest.FixtureRequest) -> Iterator[Database]:
    with migrated(request.param).in_use() as database:
        yield database


@pytest.fixture(scope="session")
def alone(database: Database) -> Iterator[str]:  # noqa: ARG001 - Airflow uses it
    with served_alone(create_app()) as hook:
        yield hook


@pytest.fixture(scope="session")
def mounted_app(database: Database) -> Uncompleted:  # noqa: ARG001
    return Uncompleted()


@pytest.fixture(scope="session")
def mounted(database: Database, mounted_app: Uncompleted) -> Iterator[str]:
    """Serve the app as the API server does. On PostgreSQL, ordinary reports are written in batches."""
    with served_mounted(mounted_app) as url:
        hook = url + settings.load().url
        if database.name == "postgresql":
            mounted_app.wait_for_batches(hook)
        yield hook


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """Return the way in which the routes are served."""
    return str(request.param)


@pytest.fixture
def hook(database: Database, server: str, request: pytest.FixtureRequest) -> str:  # noqa: ARG001
    return str(request.getfixturevalue(server))


@pytest.fixture
def client(hook: str) -> Iterator[HookClient]:
    with HookClient(hook) as client:
        yield client


@pytest.fixture
def new_task(database: Database) -> Callable[..., RunningTask]:
    def new(**fields: Any) -> RunningTask:
        return running_task(database.engine, **fields)

    return new


@pytest.fixture
def new_job(database: Database, client: HookClient) -> NewJob:
    def new(**spec: Any) -> SignedJob:
        return registered(running_task(database.engine), client, **spec)

    return new


@pytest.fixture
def job(new_job: NewJob) -> SignedJob:
    return new_job()


@pytest.fixture
def actions(database: Database) -> Actions:
    return Actions(database.store, replay_window=2 * settings.load().max_clock_skew)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store")


@pytest.fixture(scope="module")
def kube() -> Iterator[Cluster]:
    with kube_or_skip() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pods(kube: Cluster) -> Iterator[JobPods]:
    with job_pods(kube) as pods:
        yield pods


@pytest.fixture
def serve(database: Database, server: str, folder: Folder) -> Iterator[Serve]:  # noqa: ARG001
    with serving(server, folder) as serve:
        yield serve


@pytest.fixture
def own_job(serve: Serve, new_task: Callable[..., RunningTask]) -> SignedJob:
    """Return a job on a server whose file store is empty."""
    return registered(new_task(), serve())


@pytest.fixture
def kept(database: Database, folder: Folder) -> Kept:
    return Kept(database.engine, folder)


@pytest.fixture
def peers(new_job: NewJob) -> Iterator[Peers]:
    with new_peers(new_job) as peers:
        yield peers


@pytest.fixture
def content() -> bytes:
    """Return content that is not stored yet."""
    return secrets.token_bytes(SIZE)
