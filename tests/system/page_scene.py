# SPDX-License-Identifier: Apache-2.0
"""A deployment with people in it, and what their browsers show of the page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import requests
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Error, Frame, FrameLocator, Page

from dev.deployment import USER, Deployment

VIEWER = "viewer"
LOOKER = "looker"
"""May look at actions, and neither at logs nor at XComs: where roles can say so."""
LOOKS_AT = ("DAGs", "DAG Runs", "Task Instances", "Website")
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
AUTH_MANAGERS = {
    "simple": {"simple_auth_manager_users": f"{USER}:admin,{VIEWER}:viewer"},
    "fab": {"auth_manager": FAB},
}
"""Options of ``[core]``, by the name of a kind of deployment."""

FOLDER = Path(os.environ.get("ASYNCACTION_SCREENSHOTS", "build/screenshots"))
EXPECTED = (
    "sandbox attribute can escape",  # Airflow's own way to show plugins
    "status of 401",  # Airflow asks before it has signed in
    "status of 403",
    "status of 404",
    "(reading 'tz')",  # FAB's own sign-in page, now and then
)
"""What a console, or a script that fails, may say."""

Theme = Literal["light", "dark"]


class PageScene:
    """The deployment of one auth manager, whose runs are looked at in a browser.

    :param kind: of ``AUTH_MANAGERS``
    """

    def __init__(self, kind: str, deployment: Deployment, browser: Browser) -> None:
        self.kind = kind
        self.deployment = deployment
        self.api = deployment.api
        self._browser = browser
        self._tokens: dict[str, str] = {}

    def make_users(self) -> None:
        """Let everybody sign in; to be called once, after the start."""
        if self.kind == "simple":
            passwords = json.loads((self.deployment.home / "passwords.json").read_text())
        else:
            self._cli("roles", "create", "Looker")
            self._cli("roles", "add-perms", "Looker", "--action", "can_read", "--resource", *LOOKS_AT)
            passwords = {USER: self.deployment.password, VIEWER: "v1ewer", LOOKER: "l00ker"}
            for name, role in ((USER, "Admin"), (VIEWER, "Viewer"), (LOOKER, "Looker")):
                self._create_user(name, role, passwords[name])
        self._tokens = {name: self._token(name, password) for name, password in passwords.items()}

    def _token(self, name: str, password: str) -> str:
        body = {"username": name, "password": password}
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(f"{self.deployment.base_url}/auth/token", json=body, timeout=60)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["access_token"])

    def _create_user(self, name: str, role: str, password: str) -> None:
        who = ("--username", name, "--role", role, f"--password={password}")  # it may begin with "-"
        rest = ("--firstname", name, "--lastname", name, "--email", f"{name}@example.org")
        self._cli("users", "create", *who, *rest)

    def _cli(self, *arguments: str) -> None:
        done = self.deployment.cli(*arguments)
        assert done.returncode == 0, done.stderr[-2000:]

    def get(self, user: str, path: str) -> requests.Response:
        """Send a request to a route of users."""
        headers = {"Authorization": f"Bearer {self._tokens[user]}"}
        return requests.get(f"{self.deployment.base_url}/async{path}", headers=headers, timeout=60)

    @contextmanager
    def page(self, user: str = USER, *, theme: Theme = "light", width: int = 1440) -> Iterator[Page]:
        """Open a signed-in browser; scripts that fail and content that is blocked fail the test."""
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
        context.add_cookies(
            [{"name": "_token", "value": self._tokens[user], "url": self.deployment.base_url}]
        )
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
        """Open a path of Airflow's UI; return the page in it."""
        page.goto(f"{self.deployment.base_url}{path}")
        return page.frame_locator('iframe[src*="/async/ui/"]')

    def open_task(self, page: Page, dag_id: str, run_id: str, task_id: str) -> FrameLocator:
        """Open the tab of a task instance; return the page in it."""
        return self.open(
            page, f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}/plugin/async_action"
        )

    def open_alone(self, page: Page, path: str = "") -> None:
        """Open a view in a window of its own."""
        page.goto(f"{self.deployment.base_url}/async/ui/{path}")

    def keep(self, page: Page, name: str) -> None:
        """Keep a screenshot."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=FOLDER / f"{self.kind}-{name}.png")


def frame_of(page: Page) -> Frame:
    """Return the frame in which Airflow's UI shows the page."""
    return next(frame for frame in page.frames if "/async/ui/" in frame.url)


def serious(page: Page) -> list[dict[str, Any]]:
    """Return what axe finds serious in a window."""
    found = Axe().run(page).response["violations"]
    return [
        {"rule": each["id"], "where": [node["target"] for node in each["nodes"]][:5]}
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
