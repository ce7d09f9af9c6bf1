# SPDX-License-Identifier: Apache-2.0
"""Clients generated from ``/openapi.json`` by common generators: each calls a real server."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.databases import Database
from tests.integration.signed_jobs import SignedJob
from tests.integration.user_site import UserSite, user_site
from tests.requirements import TYPESCRIPT_CLIENT, typescript_generator_or_skip

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("database", ["sqlite"], indirect=True)]


@pytest.fixture(scope="module")
def site(database: Database) -> Iterator[UserSite]:
    with user_site(database) as site:
        yield site


@contextmanager
def starting_job(site: UserSite, dag_id: str) -> Iterator[SignedJob]:
    with site.job(dag_id, type="etl.load", arguments='{"table": "orders"}') as job:
        yield job


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_generated_python_client(site: UserSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")  # it formats with ruff
    generate = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"]
    output = ["--meta", "none", "--output-path", "async_actions_client"]
    run([*generate, *output, "--url", f"{site.hook}/openapi.json"], tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def generated(name: str) -> Any:
        return importlib.import_module(f"async_actions_client.{name}")

    models = generated("models")
    client = generated("client").AuthenticatedClient(base_url=site.hook, token=site.token)
    with starting_job(site, "generated_python") as job, client:
        listed = generated("api.actions.list_actions").sync(
            client=client, dag="generated_python", status=[models.Status.STARTING, models.Status.RUNNING]
        )
        (action,) = listed.actions
        assert (str(action.uuid), action.status) == (job.info.job_id, models.Status.STARTING)
        got = generated("api.actions.get_action").sync(action.uuid, client=client)
        assert got.arguments.to_dict() == {"table": "orders"}
        stopped = generated("api.actions.stop_action").sync(action.uuid, client=client)
        assert stopped.action == models.Verb.STOP
        refused = generated("api.operations.launch_operation").sync(
            "no.such", client=client, body=models.JsonObject()
        )
        assert (type(refused), refused.error) == (models.Error, "no_such_operation")


def test_a_generated_typescript_client(site: UserSite, tmp_path: Path) -> None:
    node_modules = typescript_generator_or_skip()
    (tmp_path / "node_modules").symlink_to(node_modules)
    for name in ("package.json", "client.ts"):
        shutil.copy(TYPESCRIPT_CLIENT / name, tmp_path)
    generate = ["node", "node_modules/openapi-typescript/bin/cli.js", f"{site.hook}/openapi.json"]
    run([*generate, "--output", "api.d.ts"], tmp_path)
    compile_ = ["node", "node_modules/typescript/bin/tsc", "--strict", "--target", "es2022"]
    run([*compile_, "--module", "nodenext", "--skipLibCheck", "client.ts"], tmp_path)
    with starting_job(site, "generated_typescript") as job:
        told = json.loads(run(["node", "client.js", site.hook, site.token, "generated_typescript"], tmp_path))
    assert told == {
        "uuid": job.info.job_id,
        "arguments": {"table": "orders"},
        "verb": "STOP",
        "missing": "no_such_action",
    }
