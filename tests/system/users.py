# SPDX-License-Identifier: Apache-2.0
"""Users: HTTP clients that are signed in to Airflow, each with its own token."""

from __future__ import annotations

import json
from typing import Any

import requests

from dev.deployment import Deployment
from tests.system.scene import eventually


class User:
    """A user of a deployment with the simple auth manager."""

    def __init__(self, deployment: Deployment, name: str) -> None:
        self.hook = f"{deployment.base_url}/async"
        passwords = json.loads((deployment.home / "passwords.json").read_text())
        body = {"username": name, "password": passwords[name]}
        answer = requests.post(f"{deployment.base_url}/auth/token", json=body, timeout=60)
        self.token: str = answer.json()["access_token"]
        self.headers = {"Authorization": f"Bearer {self.token}"}

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        """Send a request to a user route. Header names are written with ``_``."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.request(
            method,
            self.hook + path,
            json=body,
            headers={**self.headers, **given},
            timeout=60,
            allow_redirects=False,
        )

    def get(self, path: str) -> Any:
        """Return the response of a route."""
        answer = self.send("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def launch(self, operation: str, body: Any, query: str = "", **headers: str) -> dict[str, Any]:
        """Launch an operation; return its action."""
        answer = self.send("PUT", f"/{operation}{query}", body, **headers)
        assert answer.status_code == 202, answer.text
        action: dict[str, Any] = answer.json()
        assert answer.headers["Location"] == f"/async/actions/{action['uuid']}"
        return action

    def wait(self, uuid: str, *states: str) -> dict[str, Any]:
        """Wait until an action is in one of these states, or without states, until it is done."""

        def look() -> dict[str, Any] | None:
            action: dict[str, Any] = self.get(f"/actions/{uuid}")
            return action if (action["status"] in states if states else action["isDone"]) else None

        return eventually(look, f"{uuid} is in {states or 'its end'}")


def error(answer: requests.Response) -> tuple[int, str]:
    """Return the status and error code of a refusal. Its body must contain a message."""
    assert answer.json()["message"]
    return answer.status_code, answer.json()["error"]
