# SPDX-License-Identifier: Apache-2.0
"""Client of Airflow's public REST API for tests, the demo and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

DAG_RUN_ENDS = frozenset({"success", "failed"})
TASK_ENDS = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_TIMEOUT_SECONDS = 60


class AirflowApiError(Exception):
    """Airflow returned an error or did not respond."""


@dataclass(frozen=True)
class TaskKey:
    """Identifies a task instance."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def path(self) -> str:
        """Its path, including the map index of a mapped task."""
        mapped = "" if self.map_index < 0 else f"/{self.map_index}"
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{self.task_id}{mapped}"


@dataclass(frozen=True)
class LogEntry:
    """One line of a task's log.

    :param error: class and message of the exception that was logged, if any
    """

    event: str
    level: str = ""
    logger: str = ""
    error: str = ""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> LogEntry:
        """Parse one line of the API's response."""
        detail = (entry.get("error_detail") or [{}])[0]
        return cls(
            event=str(entry.get("event", "")),
            level=str(entry.get("level", "")),
            logger=str(entry.get("logger", "")),
            error=f"{detail['exc_type']}: {detail['exc_value']}" if detail else "",
        )


class AirflowApi:
    """A signed-in user of one deployment.

    :param base_url: of the API server, without a trailing slash
    """

    def __init__(self, base_url: str, *, user: str, password: str) -> None:
        self.base_url = base_url
        self._user = user
        self._password = password
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc, since the server is local

    def health(self) -> dict[str, Any]:
        """Return the health of Airflow's components, without authentication."""
        return self._call("GET", "/monitor/health")

    def sign_in(self) -> None:
        """Fetch a token. Other methods call this when they need one."""
        body = {"username": self._user, "password": self._password}
        answer = self._send("POST", "/auth/token", json=body)
        if not answer.ok:
            raise AirflowApiError(f"/auth/token returned {answer.status_code}: {answer.text[:500]}")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def dag(self, dag_id: str) -> dict[str, Any]:
        """Return a Dag."""
        return self._call("GET", f"/dags/{dag_id}")

    def dag_ids(self) -> set[str]:
        """Return the Dags that were parsed."""
        return {dag["dag_id"] for dag in self._call("GET", "/dags", query={"limit": 1000})["dags"]}

    def import_errors(self) -> dict[str, str]:
        """Return the file name and stack trace of each import error."""
        errors = self._call("GET", "/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def wait_for_dags(self, dag_ids: set[str], *, timeout_seconds: float = 60) -> None:
        """Wait until Dags are parsed. An import error of one file does not stop the wait for the others.

        :raises AirflowApiError: some are still missing, and a Dag file cannot be loaded
        :raises TimeoutError: some are still missing
        """
        deadline = time.monotonic() + timeout_seconds
        while missing := dag_ids - self.dag_ids():
            if time.monotonic() > deadline:
                if errors := self.import_errors():
                    raise AirflowApiError("\n".join(f"{file}:\n{trace}" for file, trace in errors.items()))
                raise TimeoutError(
                    f"Dags not parsed within {timeout_seconds:g} s: {', '.join(sorted(missing))}"
                )
            time.sleep(0.3)

    def unpause(self, dag_id: str) -> None:
        """Unpause a Dag."""
        self._call("PATCH", f"/dags/{dag_id}", body={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Unpause and trigger a Dag; return the run id."""
        self.unpause(dag_id)
        body = {"logical_date": None, "conf": dict(conf or {})}
        run = self._call("POST", f"/dags/{dag_id}/dagRuns", body=body)
        return str(run["dag_run_id"])

    def dag_run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a Dag run."""
        return self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout_seconds: float = 120) -> str:
        """Wait until a Dag run ends; return its state.

        :raises TimeoutError: it did not end in time
        """
        deadline = time.monotonic() + timeout_seconds
        while (state := self.dag_run(dag_id, run_id)["state"]) not in DAG_RUN_ENDS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{dag_id} {run_id} is {state} after {timeout_seconds:g} s")
            time.sleep(0.3)
        return str(state)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a Dag run, including mapped ones."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        instances: list[dict[str, Any]] = self._call("GET", path, query={"limit": 1000})["task_instances"]
        return instances

    def task_instance(self, key: TaskKey) -> dict[str, Any]:
        """Return a task instance."""
        return self._call("GET", key.path)

    def wait_for_task(self, key: TaskKey, states: frozenset[str], *, timeout_seconds: float = 60) -> str:
        """Wait until a task instance is in one of these states; return its state.

        :raises TimeoutError: it did not reach any of them in time
        """
        deadline = time.monotonic() + timeout_seconds
        while (state := self.task_instance(key)["state"]) not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{key} is {state} after {timeout_seconds:g} s")
            time.sleep(0.3)
        return str(state)

    def log(self, key: TaskKey, try_number: int = 1) -> list[LogEntry]:
        """Return the log of a try so far, or an empty list."""
        path = f"/dags/{key.dag_id}/dagRuns/{key.run_id}/taskInstances/{key.task_id}/logs/{try_number}"
        query: dict[str, Any] = {"full_content": "true"}
        if key.map_index >= 0:
            query["map_index"] = key.map_index
        try:
            content = self._call("GET", path, query=query)["content"]
        except AirflowApiError:
            return []  # the log does not exist before its first line
        return [LogEntry.from_json(entry) for entry in content]

    def log_text(self, key: TaskKey, try_number: int = 1) -> str:
        """Return the log of one try as plain lines."""
        return "\n".join(entry.event for entry in self.log(key, try_number))

    def xcoms(self, key: TaskKey) -> dict[str, Any]:
        """Return the XComs of a task instance, by key."""
        path = f"/dags/{key.dag_id}/dagRuns/{key.run_id}/taskInstances/{key.task_id}/xcomEntries"
        query = {"map_index": key.map_index}
        names = [entry["key"] for entry in self._call("GET", path, query=query)["xcom_entries"]]
        return {name: self._call("GET", f"{path}/{name}", query=query)["value"] for name in names}

    def asset_events(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the asset events that a Dag emitted."""
        events = self._call("GET", "/assets/events", query={"source_dag_id": dag_id})["asset_events"]
        assert isinstance(events, list)
        return events

    def clear(self, key: TaskKey) -> None:
        """Clear a task instance."""
        task: Any = key.task_id if key.map_index < 0 else [key.task_id, key.map_index]
        body = {"dry_run": False, "dag_run_id": key.run_id, "task_ids": [task], "only_failed": False}
        self._call("POST", f"/dags/{key.dag_id}/clearTaskInstances", body=body)

    def clear_instances(self, dag_id: str, run_id: str, ids: Sequence[str]) -> None:
        """Clear task instances by id, such as those of one iteration of a loop (Airflow 3.4)."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_instance_ids": list(ids), "only_failed": False}
        self._call("POST", f"/dags/{dag_id}/clearTaskInstances", body=body)

    def set_state(self, key: TaskKey, state: str) -> None:
        """Mark a task instance ``success`` or ``failed``."""
        self._call("PATCH", key.path, body={"new_state": state})

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a Dag run and its unfinished task instances ``success`` or ``failed``."""
        self._call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", body={"state": state})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a Dag run and its task instances."""
        self._call("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")

    def create_connection(self, connection_id: str, fields: Mapping[str, Any]) -> None:
        """Create a connection."""
        self._call("POST", "/connections", body={"connection_id": connection_id, **fields})

    def create_pool(self, name: str, *, slots: int) -> None:
        """Create a pool."""
        self._call("POST", "/pools", body={"name": name, "slots": slots})

    def asyncaction(self, method: str, path: str, **query: str) -> dict[str, Any]:
        """Call the API of this project, ``/async/...``."""
        return self._call(method, path, query=query, root="/async")

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        root: str = "/api/v2",
    ) -> dict[str, Any]:
        if "Authorization" not in self._session.headers and not path.startswith("/monitor"):
            self.sign_in()
        answer = self._send(method, f"{root}{path}", json=body, params=query)
        if not answer.ok:
            raise AirflowApiError(f"{method} {path} returned {answer.status_code}: {answer.text[:1000]}")
        parsed: dict[str, Any] = answer.json() if answer.content else {}
        return parsed

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(method, self.base_url + path, timeout=_TIMEOUT_SECONDS, **options)
        except requests.RequestException as error:
            reason = type(error).__name__
            raise AirflowApiError(
                f"{method} {path} failed, the API server did not respond ({reason})"
            ) from error
