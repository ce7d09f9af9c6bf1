# SPDX-License-Identifier: Apache-2.0
"""Private Airflow deployment: PostgreSQL and four Airflow processes on free ports."""

from __future__ import annotations

import base64
import configparser
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.airflow_api import AirflowApi, AirflowApiError
from dev.postgres import Postgres, PostgresError
from dev.processes import Process, free_ports, kill_leftovers, stop

MARK = "ASYNCACTION_DEPLOYMENT"
"""Environment variable that identifies every process of a deployment."""

USER = "admin"

STOP_GRACE_SECONDS = 3
"""The triggerer alone would take 10 s to stop, and the deployment is temporary."""

_PRELOAD = """\
import importlib, runpy, sys
for name in sys.argv.pop(1).split(","):
    importlib.import_module(name)
runpy.run_module("airflow", run_name="__main__", alter_sys=True)
"""

Config = Mapping[str, Mapping[str, str]]
"""Options of airflow.cfg: section, option, value."""


class DeploymentError(Exception):
    """A process failed or did not become healthy in time; includes the last lines of its log.

    :param reason: one line
    :param log: the whole log
    """

    def __init__(self, reason: str, log: Path, tail: str) -> None:
        super().__init__(f"{reason}; the end of {log}:\n{tail}")
        self.reason = reason
        self.log = log


class Deployment:
    """Scheduler, API server, triggerer and dag processor with the LocalExecutor.

    How it works: ``with Deployment(home, dags=[...]) as airflow:`` starts a PostgreSQL server, writes
    ``airflow.cfg``, migrates the database, starts the processes, and returns when all are healthy. Each
    process writes to ``home/<name>.log`` and may be killed and restarted alone
    (``airflow.scheduler.kill()``). Everything that any of them started is gone afterwards, even after an
    exception or Ctrl-C. It never uses SQLite: Airflow's API server deadlocks on it under load.

    What it does not do: remove ``home``, or create the database of ``database_url``.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Sequence[Path],
        database_url: str | None = None,
        is_migrated: bool = False,
        config: Config | None = None,
        environ: Mapping[str, str] | None = None,
        preload: Sequence[str] = (),
        pods_reach_us_at: str | None = None,
        start_timeout_seconds: float = 180,
        migrate_timeout_seconds: float = 300,
    ) -> None:
        """Configure the deployment, without writing or starting anything.

        :param home: AIRFLOW_HOME
        :param dags: folders of Dag files
        :param database_url: of an empty PostgreSQL database; by default, the deployment starts its own
            server, and stops it at the end
        :param is_migrated: whether the database is already migrated
        :param config: options that extend or override the defaults
        :param environ: variables for all processes
        :param preload: modules that the scheduler and the dag processor import when they start. The processes
            that they fork, one for each task and each Dag file, need not import them again.
        :param pods_reach_us_at: this machine's address for jobs on other machines (``Cluster.host``). The API
            server then listens on all interfaces
        """
        self.home = home.resolve()
        self.dags = [folder.resolve() for folder in dags]
        self._own_server = Postgres() if database_url is None else None
        self._database_url = database_url
        self._is_migrated = is_migrated
        self.password = secrets.token_urlsafe(9)
        self._config = config or {}
        self._preload = ",".join(preload)
        self._mark = secrets.token_hex(8)
        self._sessions = set[int]()
        self._start_timeout_seconds = start_timeout_seconds
        self._migrate_timeout_seconds = migrate_timeout_seconds
        api_port, self._worker_log_port, self._trigger_log_port = free_ports(3)
        self.base_url = f"http://127.0.0.1:{api_port}"
        self._jobs_base_url = f"http://{pods_reach_us_at}:{api_port}/async" if pods_reach_us_at else ""
        listen_at = "0.0.0.0" if pods_reach_us_at else "127.0.0.1"  # noqa: S104 - requested
        self.api = AirflowApi(self.base_url, user=USER, password=self.password)
        self._extra_environ = environ or {}
        self._address = ("--port", str(api_port), "--host", listen_at)
        self._use(Path(sys.executable))

    python: Path
    """Interpreter whose Airflow runs."""

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the metadata database. Start a deployment with its own server first."""
        assert self._database_url is not None, "the deployment has not started"
        return self._database_url

    @property
    def processes(self) -> tuple[Process, ...]:
        """The four Airflow processes."""
        return (self.api_server, self.scheduler, self.triggerer, self.dag_processor)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            with suppress(DeploymentError):  # the original error matters more
                self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the deployment, as the ``with`` statement does.

        :raises DeploymentError: a process failed, or is not healthy in time
        """
        self.home.mkdir(parents=True, exist_ok=True)
        if self._own_server is not None:
            with self._postgres_errors("start"):
                self._own_server.__enter__()
                self._database_url = self._own_server.create("airflow")
        self._write_config()
        if not self._is_migrated:
            self._migrate()
        for process in self.processes:
            process.start()
        self.wait_until_healthy()

    def move_to(self, python: Path, *migrate: str, is_older: bool = False) -> None:
        """Stop Airflow, and start the one of another environment with the same home, database and ports.

        :param python: interpreter of the other environment
        :param migrate: arguments of the ``airflow`` command that migrates the database
        :param is_older: whether the running Airflow migrates it, back to the other's tables
        :raises DeploymentError: it does not come up
        """
        with _uninterrupted():
            self._stop_airflow()
        if not is_older:
            self._use(python)
        self._migrate(*migrate)
        self._use(python)
        self.api_server.start()
        self._wait_until_responding(self.api_server, self.api)  # or tasks would use up their tries
        for process in self.processes[1:]:
            process.start()
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop all processes and their children, ignoring Ctrl-C.

        :raises DeploymentError: the database server did not stop in time, and was killed
        """
        with _uninterrupted():
            self._stop_airflow()
            if self._own_server is not None:
                with self._postgres_errors("stop"):
                    self._own_server.stop()

    def _stop_airflow(self) -> None:
        stop(self.processes, grace_seconds=STOP_GRACE_SECONDS)
        self._sessions.update(*(process.sessions for process in self.processes))
        while kill_leftovers(self._sessions, MARK, self._mark):
            time.sleep(0.05)

    def _use(self, python: Path) -> None:
        self.python = python
        self.environ = self._environ(self._extra_environ)
        self.api_server = self._process("api-server", *self._address)
        self.scheduler = self._process("scheduler")
        self.triggerer = self._process("triggerer")
        self.dag_processor = self._process("dag-processor")

    @contextmanager
    def _postgres_errors(self, verb: str) -> Iterator[None]:
        """Convert an error of the database server to a DeploymentError with a log."""
        try:
            yield
        except PostgresError as error:
            log = self.home / "postgres.log"
            log.write_text(f"{error}\n")
            raise DeploymentError(f"PostgreSQL did not {verb}: {error.reason}", log, error.output) from error

    @contextmanager
    def another_api_server(self, name: str, environ: Mapping[str, str]) -> Iterator[str]:
        """Run another API server on the same database; yield its URL once it responds.

        :param name: name of its log file
        :param environ: variables that differ from the first API server's
        :raises DeploymentError: it failed, or does not respond in time
        """
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        environ = {**self.environ, "AIRFLOW__API__BASE_URL": f"{url}/", **environ}
        command = [
            str(self.python),
            "-m",
            "airflow",
            "api-server",
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
        ]
        process = Process(name, command, environ=environ, log=self.home / f"{name}.log")
        process.start()
        try:
            self._wait_until_responding(process, AirflowApi(url, user="", password=""))
            yield url
        finally:
            stop([process], grace_seconds=STOP_GRACE_SECONDS)
            self._sessions |= process.sessions

    def cli(
        self, *arguments: str, timeout_seconds: float = 300, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run an ``airflow`` command in this deployment."""
        return subprocess.run(
            [str(self.python), "-m", "airflow", *arguments],
            env={**self.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def wait_until_healthy(self, timeout_seconds: float | None = None) -> None:
        """Wait until every started process has sent a heartbeat.

        :raises DeploymentError: one of them ended, or the timeout expired
        """
        limit = self._start_timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + limit
        while late := self._unhealthy():
            ended = next((each for each in self.processes if each.started_at and not each.is_running), None)
            if ended:
                raise DeploymentError(f"{ended.name} ended", ended.log, ended.tail())
            if time.monotonic() > deadline:
                raise DeploymentError(f"{late.name} is not healthy after {limit:g} s", late.log, late.tail())
            time.sleep(0.2)

    def _wait_until_responding(self, process: Process, api: AirflowApi) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        while True:
            try:
                api.health()
            except AirflowApiError as error:
                if not process.is_running or time.monotonic() > deadline:
                    raise DeploymentError(f"{process.name}: {error}", process.log, process.tail()) from error
                time.sleep(0.2)
            else:
                return

    def _unhealthy(self) -> Process | None:
        try:
            health = self.api.health()
        except AirflowApiError:
            return self.api_server
        for process in self.processes[1:]:
            component = process.name.replace("-", "_")
            beat = health.get(component, {}).get(f"latest_{component}_heartbeat")
            if process.started_at and (beat is None or datetime.fromisoformat(beat) < process.started_at):
                return process
        return None

    def _migrate(self, *arguments: str) -> None:
        command = arguments or ("db", "migrate")
        log = self.home / "migrate.log"
        try:
            migrated = self.cli(*command, timeout_seconds=self._migrate_timeout_seconds)
        except subprocess.TimeoutExpired as error:
            said = b"".join(part for part in (error.stdout, error.stderr) if isinstance(part, bytes))
            log.write_bytes(said)
            reason = f"airflow {' '.join(command)} did not end within {error.timeout:g} s"
            raise DeploymentError(reason, log, said.decode(errors="replace")[-4000:]) from error
        log.write_text(migrated.stdout + migrated.stderr)
        if migrated.returncode != 0:
            raise DeploymentError(f"airflow {' '.join(command)} failed", log, migrated.stderr[-4000:])

    def _process(self, name: str, *arguments: str) -> Process:
        run = ["-m", "airflow"]
        if self._preload and name in ("scheduler", "dag-processor"):
            run = ["-c", _PRELOAD, self._preload]
        command = [str(self.python), *run, name, *arguments]
        return Process(name, command, environ=self.environ, log=self.home / f"{name}.log")

    def _environ(self, extra: Mapping[str, str]) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "_AIRFLOW", "JOB_")) and not name.lower().endswith("_proxy")
        }
        path = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {
            **inherited,
            "PATH": path,
            "PYTHONUNBUFFERED": "1",
            "AIRFLOW_HOME": str(self.home),
            MARK: self._mark,
            **extra,
        }

    def _write_config(self) -> None:
        passwords = self.home / "passwords.json"
        passwords.write_text(json.dumps({USER: self.password}))
        passwords.chmod(0o600)
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_dict(self._default_config(passwords))
        parser.read_dict(self._config)
        path = self.home / "airflow.cfg"
        path.touch(mode=0o600)
        with path.open("w") as file:
            parser.write(file)

    def _default_config(self, passwords: Path) -> dict[str, dict[str, str]]:
        bundles = [
            {
                "name": f"dags-{number}",
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(folder), "refresh_interval": 5},
            }
            for number, folder in enumerate(self.dags)
        ]
        return {
            "core": {
                "executor": "LocalExecutor",
                "load_examples": "False",
                "parallelism": "8",
                "fernet_key": _fernet_key(),
                "execution_api_server_url": f"{self.base_url}/execution/",
                "simple_auth_manager_users": f"{USER}:admin",
                "simple_auth_manager_passwords_file": str(passwords),
            },
            "database": {"sql_alchemy_conn": self.database_url.replace("%", "%%")},
            "api": {"base_url": f"{self.base_url}/", "workers": "1", "secret_key": secrets.token_hex(32)},
            "api_auth": {"jwt_secret": secrets.token_hex(32)},
            "dag_processor": {
                "dag_bundle_config_list": json.dumps(bundles),
                "bundle_refresh_check_interval": "1",
                "min_file_process_interval": "300",
                "parsing_processes": "2",
            },
            "scheduler": {"scheduler_idle_sleep_time": "0.5", "enable_health_check": "False"},
            "logging": {
                "worker_log_server_port": str(self._worker_log_port),
                "trigger_log_server_port": str(self._trigger_log_port),
                "colored_console_log": "False",
            },
            "asyncaction": {"base_url": self._jobs_base_url},
            "usage_data_collection": {"enabled": "False"},
        }


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C in the block, if called in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
