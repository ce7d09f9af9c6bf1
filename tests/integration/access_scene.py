# SPDX-License-Identifier: Apache-2.0
"""Access scene: Dags with actions, eight FAB users with one role each, five users in teams, and a client."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.team import Team
from airflow.sdk import DAG, BaseOperator
from sqlalchemy import delete, make_url, update
from sqlalchemy.orm import Session

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.operations import TAG
from airflow_asyncaction.web.app import create_app
from tests.integration.airflow_server import FAB, AirflowServer, FabUser
from tests.integration.databases import Database, sqlite_in
from tests.integration.running_tasks import running_task
from tests.integration.servers import served_alone
from tests.integration.signed_jobs import HookClient, registered
from tests.integration.stored_dags import store_dag

DAGS = ("dag_a", "dag_b", "dag_c")
GONE = "dag_gone"
"""Deleted Dag that has an action."""
TEAMS = {"dag_a": "team_a", "dag_b": "team_b"}

RUNS = ("DAG Runs", "Task Instances")
USERS = {
    "admin": FabUser("Admin"),
    "op": FabUser("Op"),
    "user": FabUser("User"),
    "viewer": FabUser("Viewer"),
    "public": FabUser("Public"),
    "reader_of_a": FabUser("ReaderOfA", (*RUNS, "Task Logs", "XComs"), dags={"dag_a": ("can_read",)}),
    "launcher_of_b": FabUser(
        "LauncherOfB",
        RUNS,
        (("can_create", "DAG Runs"), ("can_edit", "DAG Runs"), ("can_edit", "Task Instances")),
        dags={"dag_b": ("can_read", "can_edit"), "dag_c": ("can_edit",), GONE: ("can_read",)},
    ),
    "no_runs": FabUser("NoRuns", ("DAGs", "Website")),
}
MEMBERS = (
    "admin:admin,viewer:viewer,user_of_a:user:team_a,viewer_of_b:viewer:team_b,op_of_both:op:team_a|team_b"
)
ROLES = "admin:admin,viewer:viewer,user:user,op:op"
KINDS: dict[str, dict[str, str]] = {
    "fab": {"AIRFLOW__CORE__AUTH_MANAGER": FAB},
    "simple": {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ROLES},
    "teams": {"AIRFLOW__CORE__MULTI_TEAM": "True", "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": MEMBERS},
}
SEE_GONE = {
    # Users who may read all Dags and their task instances, or this Dag in particular.
    "fab": {"admin", "op", "user", "viewer", "launcher_of_b"},
    "simple": {"admin", "op", "user", "viewer"},
    "teams": set[str](),
}
"""Users who may see the action of the deleted Dag."""
CLEARED = (
    *("async_action_report", "async_action_file", "async_action", "task_instance", "dag_run", "log"),
    *("dag_tag", "serialized_dag", "dag_code", "dag_version", "dag"),
)
"""Tables with rows of other tests."""


@contextmanager
def scene_database(migrated: Database, folder: Path, teams: Mapping[str, str]) -> Iterator[Database]:
    """Make Airflow in this process use a copy of a migrated database, which only contains the Dags' actions.

    :param teams: teams by Dag
    """
    given = make_url(migrated.url).database
    assert given is not None
    with closing(sqlite3.connect(given)) as source, closing(sqlite3.connect(folder / "airflow.db")) as copy:
        source.backup(copy)
        for table in CLEARED:
            copy.execute(f"DELETE FROM {table}")  # noqa: S608 - one of the above
        copy.commit()
    with sqlite_in(folder).in_use() as database:
        for dag_id in DAGS:
            _store(database, dag_id, teams.get(dag_id))
        with served_alone(create_app()) as hook, HookClient(hook) as client:
            for dag_id in (*DAGS, GONE):
                _run_actions(database, client, dag_id)
        with Session(database.engine) as session:
            session.execute(delete(TaskInstance).where(TaskInstance.dag_id == GONE))
            session.commit()
        yield database


def _store(database: Database, dag_id: str, team: str | None) -> None:
    with DAG(dag_id, schedule=None, tags=[TAG], is_paused_upon_creation=False) as dag:
        dag.relative_fileloc = f"{dag_id}.py"
        BaseOperator(task_id="task")
    store_dag(database.engine, dag)
    if team is not None:
        with Session(database.engine) as session:
            bundle = DagBundleModel(name=f"bundle_of_{dag_id}")
            bundle.teams = [Team(name=team)]
            session.add(bundle)
            session.flush()
            session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(bundle_name=bundle.name))
            session.commit()


def _run_actions(database: Database, client: HookClient, dag_id: str) -> None:
    running = registered(running_task(database.engine, dag_id=dag_id), client, type=f"type.of.{dag_id}")
    running.report(statusDetails={"progress": 40, "message": f"progress of {dag_id}"}, logs=["a line"])
    failed = registered(running_task(database.engine, dag_id=dag_id, map_index=3), client, type="any")
    failed.report(status="ERROR", errorMessage=f"error of {dag_id}\nits output")
    failed.send_message(Exit(code=1))


class Client:
    """HTTP client of a server's user."""

    def __init__(self, server: AirflowServer, name: str) -> None:
        self._server = server
        self._token = server.tokens[name]
        self._headers = {"Authorization": f"Bearer {self._token}"}

    def send(self, method: str, url: str, body: Any = None) -> requests.Response:
        """Send a request to Airflow."""
        return requests.request(
            method,
            self._server.url + url,
            json=body,
            headers=self._headers,
            timeout=60,
            allow_redirects=False,
        )

    def connection(self) -> str:
        """Return an Airflow connection to our routes as the user, in the form of an environment variable."""
        extra = {"token": self._token}
        return json.dumps({"conn_type": "asyncaction", "host": self._server.hook, "extra": extra})

    def listed(self, query: str = "") -> list[dict[str, Any]]:
        """Return all actions of a list, page by page."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self.send("GET", f"/async/actions?limit=3{query}{cursor}")
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += page["actions"]
            if page["nextCursor"] is None:
                return found
            cursor = f"&cursor={page['nextCursor']}"

    def airflow_task_instances(self) -> set[tuple[str, str]]:
        """Return the Dag and run of each task instance in Airflow's own list."""
        answer = self.send("GET", "/api/v2/dags/~/dagRuns/~/taskInstances?limit=100")
        if answer.status_code == 403:
            return set()
        return {(found["dag_id"], found["dag_run_id"]) for found in answer.json()["task_instances"]}

    def may_launch(self, dag_id: str) -> bool:
        """Return whether the user may trigger a run in Airflow, with a request too invalid to create one."""
        reads = self.send("GET", f"/api/v2/dags/{dag_id}/dagRuns").status_code == 200
        answer = self.send("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"dag_run_id": 5})
        assert answer.status_code in (403, 422)
        return reads and answer.status_code == 422
