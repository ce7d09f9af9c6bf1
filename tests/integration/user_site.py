# SPDX-License-Identifier: Apache-2.0
"""User site: the user routes and the page, served for an admin of Airflow's simple auth manager."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from airflow.api_fastapi.app import init_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

from airflow_asyncaction import settings
from tests.integration.databases import Database
from tests.integration.servers import served_mounted
from tests.integration.signed_jobs import HookClient, SignedJob, registered
from tests.integration.stored_dags import run_of


@dataclass(frozen=True)
class UserSite:
    """A server with the user routes.

    :param url: URL of the server, without a trailing slash
    :param token: token of an admin
    """

    database: Database
    url: str
    token: str

    @property
    def hook(self) -> str:
        """URL of our routes."""
        return self.url + settings.load().url

    def get(self, path: str) -> Any:
        """Return the response of a user route to the admin."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = requests.get(self.hook + path, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextmanager
    def job(
        self,
        dag_id: str,
        task_id: str = "load",
        *,
        map_index: int = -1,
        map_name: str | None = None,
        **spec: Any,
    ) -> Iterator[SignedJob]:
        """Register an action of a new Dag run, and yield its job.

        :param map_name: name of the mapped task instance, rendered by ``map_index_template``
        """
        task = run_of(self.database.engine, dag_id).task(task_id, map_index)
        if map_name is not None:
            task.set_rendered_map_index(map_name)
        with HookClient(self.hook) as client:
            yield registered(task, client, **spec)


@contextmanager
def user_site(database: Database) -> Iterator[UserSite]:
    """Serve the user routes on a database that is in use."""
    with pytest.MonkeyPatch.context() as patch, served_mounted() as url:
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(32))
        try:
            token = init_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ann", role="admin"))
            yield UserSite(database, url, token)
        finally:
            purge_cached_app()
