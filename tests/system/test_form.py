# SPDX-License-Identifier: Apache-2.0
"""Airflow's trigger form for operations, filled in by a user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dev.airflow_api import TaskKey
from tests.system.page_scene import simple_scene
from tests.system.scene import PATIENCE_SECONDS, Scene

pytestmark = pytest.mark.system

OPERATIONS = ("form_required", "form_optional")
TYPED = {
    "text": "5",
    "count": "5",
    "ratio": "1.5",
    "day": "2026-11-28",
    "at": "12:30:15",
    "lasts": "PT90S",
    "names": "a\nb",
    "key": "7",
    "anything": '{"n": [1]}',
}
CHOSEN = {"mode": ["b"], "level": ["2"], "colour": ["blue"], "colours": ["red", "blue"]}
WRITTEN: dict[str, Any] = {
    "numbers": [1, 2],
    "column": {"name": "c"},
    "options": {"a": [1]},
    "columns": [{"name": "d", "width": 3}],
    "pair": [1, "x"],
}
CAME = {
    "text": "'5'",
    "count": "5",
    "ratio": "1.5",
    "flag": "True",
    "day": "datetime.date(2026, 11, 28)",
    "moment": "datetime.datetime(2026, 11, 28, 10, 20, tzinfo=TzInfo(0))",
    "at": "datetime.time(12, 30, 15)",
    "lasts": "datetime.timedelta(seconds=90)",
    "mode": "'b'",
    "level": "2",
    "colour": "<Colour.BLUE: 'blue'>",
    "names": "['a', 'b']",
    "numbers": "[1, 2]",
    "colours": "[<Colour.RED: 'red'>, <Colour.BLUE: 'blue'>]",
    "column": "Column(name='c', width=None)",
    "options": "{'a': [1]}",
    "columns": "[Column(name='d', width=3)]",
    "pair": "(1, 'x')",
    "key": "7",
    "anything": "{'n': [1]}",
}


class Form:
    """The form of a Dag in a browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._dialog = page.get_by_role("dialog")

    def fill_in(self) -> None:
        for name, text in TYPED.items():
            self._field(name).fill(text)
        for name, options in CHOSEN.items():
            for option in options:
                self._box(name).get_by_role("combobox").click()
                self.page.get_by_role("option", name=option, exact=True).click()
        for name, value in WRITTEN.items():
            self._paste(name, json.dumps(value))
        self.page.locator("label", has=self._field("flag")).locator("[data-part=control]").click()
        self.page.get_by_text("Select date and time").click()
        self.page.get_by_placeholder("YYYY/MM/DD").fill("2026/11/28")
        self.page.get_by_placeholder("HH:mm").fill("10:20")
        self.page.keyboard.press("Tab")
        self.page.keyboard.press("Escape")

    def send(self, dag_id: str) -> str:
        """Trigger the Dag; return the run's id."""
        url, patience_ms = f"/{dag_id}/dagRuns", PATIENCE_SECONDS * 1000
        with self.page.expect_response(
            lambda answer: answer.url.endswith(url), timeout=patience_ms
        ) as triggered:
            self._dialog.get_by_role("button", name="Trigger").click()
        assert triggered.value.ok, triggered.value.text()
        return str(triggered.value.json()["dag_run_id"])

    def _field(self, name: str) -> Locator:
        return self.page.locator(f"[name=element_{name}]")

    def _box(self, name: str) -> Locator:
        return self.page.locator(f"#element_{name}")

    def _paste(self, name: str, text: str) -> None:
        """Write into an editor in one step: it formats its content after each key."""
        self._box(name).locator(".view-lines").click()
        self.page.keyboard.press("Control+A")
        self.page.evaluate("text => navigator.clipboard.writeText(text)", text)
        self.page.keyboard.press("Control+V")
        expect(self._box(name)).to_contain_text(text.split('"')[1] if '"' in text else "1")


@contextmanager
def opened(scene: Scene, browser: Browser, dag_id: str) -> Iterator[Form]:
    """Open the form of an operation, signed in."""
    with simple_scene(scene.deployment, browser).page() as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.set_viewport_size({"width": 1440, "height": 3000})
        page.goto(f"{scene.deployment.base_url}/dags/{dag_id}")
        page.get_by_role("button", name="Trigger").first.click()
        expect(page.locator("#element_columns .view-lines")).to_be_visible()
        yield Form(page)


def results_of(scene: Scene, dag_id: str, run_id: str) -> Any:
    assert scene.api.wait_for_run(dag_id, run_id, timeout_seconds=PATIENCE_SECONDS) == "success"
    return scene.api.xcoms(TaskKey(dag_id, run_id, "action", -1))["return_value"]


@pytest.mark.parametrize("dag_id", OPERATIONS)
def test_each_kind_of_argument_has_a_field_whose_value_is_used(
    scene: Scene, browser: Browser, dag_id: str
) -> None:
    with opened(scene, browser, dag_id) as form:
        form.fill_in()
        run_id = form.send(dag_id)
    assert results_of(scene, dag_id, run_id) == CAME


def test_optional_arguments_may_be_left_empty(scene: Scene, browser: Browser) -> None:
    with opened(scene, browser, "form_optional") as form:
        run_id = form.send("form_optional")
    assert set(results_of(scene, "form_optional", run_id).values()) == {"None"}
