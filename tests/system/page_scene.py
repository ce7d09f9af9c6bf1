# SPDX-License-Identifier: Apache-2.0
"""Page scene: a deployment with users, and the page in their browsers."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import requests
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Error, Frame, FrameLocator, Page

from dev.airflow_api import AirflowApi
from dev.deployment import USER, Deployment
from tests.shared import WITH_FAB

VIEWER = "viewer"
LOOKER = "looker"
"""User who may see actions, but neither logs nor XComs, if roles can express that."""
LOOKS_AT = ("DAGs", "DAG Runs", "Task Instances", "Website")
FOLDER = Path(os.environ.get("ASYNCACTION_SCREENSHOTS", "build/screenshots"))
EXPECTED = (
    "sandbox attribute can escape",  # Airflow's own way to show plugins
    "status of 401",  # Airflow asks before it has signed in
    "status of 403",
    "status of 404",
    "(reading 'tz')",  # FAB's own sign-in page, now and then
)
"""Allowed messages of the console and of script errors."""

Theme = Literal["light", "dark"]


def simple_scene(deployment: Deployment, browser: Browser) -> PageScene:
    """Return the deployment's own API server, which uses the simple auth manager."""
    passwords = json.loads((deployment.home / "passwords.json").read_text())
    return PageScene("simple", deployment.base_url, passwords, browser)


@contextmanager
def fab_scene(deployment: Deployment, browser: Browser) -> Iterator[PageScene]:
    """Run another API server, which uses the FAB auth manager, with users of three roles."""
    passwords = {USER: secrets.token_hex(8), VIEWER: secrets.token_hex(8), LOOKER: secrets.token_hex(8)}
    names = ("--firstname", USER, "--lastname", USER, "--email", f"{USER}@example.org")
    admin = ("--username", USER, "--role", "Admin", "--password", passwords[USER])
    created = deployment.cli("users", "create", *admin, *names, environ=WITH_FAB)
    assert created.returncode == 0, created.stderr[-2000:]
    with deployment.another_api_server("api-server-fab", WITH_FAB) as url:
        token = _token(url, USER, passwords[USER])
        looks = [{"action": {"name": "can_read"}, "resource": {"name": name}} for name in LOOKS_AT]
        _create(url, token, "roles", {"name": "Looker", "actions": looks})
        for name, role in ((VIEWER, "Viewer"), (LOOKER, "Looker")):
            user = {"username": name, "first_name": name, "last_name": name, "email": f"{name}@example.org"}
            _create(url, token, "users", {**user, "password": passwords[name], "roles": [{"name": role}]})
        yield PageScene("fab", url, passwords, browser)


def _token(base_url: str, name: str, password: str) -> str:
    body = {"username": name, "password": password}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"{base_url}/auth/token", json=body, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["access_token"])


def _create(base_url: str, token: str, what: str, body: Mapping[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.post(f"{base_url}/auth/fab/v1/{what}", json=body, headers=headers, timeout=60)
    assert answer.ok, answer.text


class PageScene:
    """An API server with one auth manager, whose page is tested in a browser.

    :param kind: ``simple`` or ``fab``
    :param passwords: passwords by user name
    """

    def __init__(self, kind: str, base_url: str, passwords: Mapping[str, str], browser: Browser) -> None:
        self.kind = kind
        self.base_url = base_url
        self.api = AirflowApi(base_url, user=USER, password=passwords[USER])
        self._browser = browser
        self._tokens = {name: _token(base_url, name, password) for name, password in passwords.items()}

    def get(self, user: str, path: str) -> requests.Response:
        """Send a request to a user route."""
        headers = {"Authorization": f"Bearer {self._tokens[user]}"}
        return requests.get(f"{self.base_url}/async{path}", headers=headers, timeout=60)

    @contextmanager
    def page(self, user: str = USER, *, theme: Theme = "light", width: int = 1440) -> Iterator[Page]:
        """Open a signed-in browser. Script errors and blocked content fail the test."""
        said: list[str] = []

        def note(text: str) -> None:
            if not any(words in text for words in EXPECTED):
                said.append(text)

        def listen(message: ConsoleMessage) -> None:
            if message.type == "error":
                note(message.text)

        def fail(error: Error) -> None:
            note(str(error))

        context = self._browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, accept_downloads=True
        )
        context.add_cookies([{"name": "_token", "value": self._tokens[user], "url": self.base_url}])
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", listen)
        page.on("pageerror", fail)
        try:
            yield page
            assert said == [], said
        finally:
            context.close()

    def open(self, page: Page, path: str) -> FrameLocator:
        """Open a path of Airflow's UI, and return the page in its frame."""
        page.goto(f"{self.base_url}{path}")
        return page.frame_locator('iframe[src*="/async/ui/"]')

    def open_task(self, page: Page, dag_id: str, run_id: str, task_id: str) -> FrameLocator:
        """Open the tab of a task instance, and return the page in its frame."""
        return self.open(
            page, f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}/plugin/async_action"
        )

    def open_alone(self, page: Page, path: str = "") -> None:
        """Open a view in a separate window."""
        page.goto(f"{self.base_url}/async/ui/{path}")

    def save_screenshot(self, page: Page, name: str) -> None:
        """Save a screenshot."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=FOLDER / f"{self.kind}-{name}.png")


def frame_of(page: Page) -> Frame:
    """Return the frame in which Airflow's UI shows the page."""
    return next(frame for frame in page.frames if "/async/ui/" in frame.url)


def find_violations(page: Page) -> list[dict[str, Any]]:
    """Return the serious accessibility violations that axe finds in a window."""
    found = Axe().run(page).response["violations"]
    return [
        {"rule": each["id"], "where": [node["target"] for node in each["nodes"]][:5]}
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
