# SPDX-License-Identifier: Apache-2.0
"""Airflow's own API server with one auth manager and its users, in a separate process, and nothing else.

Run as a script, it prints its URL and the users' tokens once it is ready. It logs to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

_ROOT = Path(__file__).parents[2]
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


@dataclass(frozen=True)
class FabUser:
    """A FAB user with one role.

    :param role: an existing role of FAB, or a new one
    :param resources: resources of all Dags that the new role may read
    :param actions: further permissions: pairs of FAB action and resource
    :param dags: permitted actions by Dag
    """

    role: str
    resources: tuple[str, ...] = ()
    actions: tuple[tuple[str, str], ...] = ()
    dags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class AirflowServer:
    """A running server.

    :param tokens: tokens of its users, by name
    :param log: its log file
    """

    url: str
    tokens: Mapping[str, str]
    log: Path
    pid: int

    @property
    def hook(self) -> str:
        """URL of our routes."""
        return f"{self.url}/async"

    def logged(self, words: str = "", times: int = 0) -> list[str]:
        """Wait until the server has logged a number of lines that contain a text. Return all lines."""
        while True:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            if sum(words in line for line in lines) >= times:
                return lines
            time.sleep(0.02)


@contextmanager
def airflow_server(
    log: Path, *, users: Mapping[str, FabUser] | None = None, environ: Mapping[str, str]
) -> Iterator[AirflowServer]:
    """Run a server on the database that Airflow uses in this process.

    :param users: users of FAB; ``None`` for those of the simple auth manager that the environment configures
    """
    given = None if users is None else {name: vars(user) for name, user in users.items()}
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(given)],
            env={**os.environ, **environ, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as program,
    ):
        assert program.stdout is not None
        try:
            line = program.stdout.readline()
            assert line, log.read_text(encoding="utf-8", errors="replace")[-5000:]
            said = json.loads(line)
            yield AirflowServer(said["url"], said["tokens"], log, program.pid)
        finally:
            program.kill()


def _fab_tokens(manager: Any, users: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    tokens = {}
    with manager.flask_app.app_context():
        security = manager.security_manager
        for name, user in users.items():
            role = security.find_role(user["role"]) or security.add_role(user["role"])
            for action, resource in (*(("can_read", each) for each in user["resources"]), *user["actions"]):
                security.add_permission_to_role(role, security.create_permission(action, resource))
            for dag_id, actions in user["dags"].items():
                for action in actions:
                    permission = security.create_permission(action, f"DAG:{dag_id}")
                    security.add_permission_to_role(role, permission)
            known = security.add_user(name, name, name, f"{name}@example.org", role, password="x")
            tokens[name] = manager.generate_jwt(known)
    return tokens


def _end_with_the_tests() -> None:
    sys.stdin.read()
    os._exit(0)


def _main(users: Mapping[str, Mapping[str, Any]] | None, ready: TextIO) -> None:
    import socket

    import uvicorn
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    app = create_app(apps="core")
    manager = get_auth_manager()
    if users is not None:
        tokens = _fab_tokens(manager, users)
    else:
        tokens = {user.username: manager.generate_jwt(user) for user in SimpleAuthManager.get_users()}
    server = uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        threading.Thread(target=_end_with_the_tests, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(json.dumps({"url": url, "tokens": tokens}), file=ready, flush=True)
        server.run(sockets=[listener])


if __name__ == "__main__":
    _ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Airflow logs to stdout, of which one line is read
    _main(json.loads(sys.argv[1]), _ready)
