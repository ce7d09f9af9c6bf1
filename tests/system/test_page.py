# SPDX-License-Identifier: Apache-2.0
"""Page in a browser, inside Airflow's UI and on its own."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, Request, Route, expect

from dev.deployment import USER
from tests.system.conftest import PAGES
from tests.system.page_dags.pages import MARKUP, ROWS
from tests.system.page_scene import (
    LOOKER,
    VIEWER,
    PageScene,
    Theme,
    fab_scene,
    find_violations,
    frame_of,
    simple_scene,
)
from tests.system.scene import PATIENCE_SECONDS, Scene

pytestmark = pytest.mark.system

UNDER_BOTH = {
    "test_a_run_is_started_in_airflows_ui_watched_and_stopped",
    "test_a_viewer_sees_and_cannot_stop",
    "test_who_is_not_signed_in_is_told_where",
}
"""Tests of what depends on the auth manager; one is enough for the others."""

UNDER_FAB = {"test_who_may_read_neither_logs_nor_results_sees_none_elsewhere"}
PATIENCE_MS = 90_000
"""A task may take long to start."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the auth managers of each test."""
    if "scene" in metafunc.fixturenames:
        name = metafunc.function.__name__
        kinds = ["fab"] if name in UNDER_FAB else ["simple", "fab"] if name in UNDER_BOTH else ["simple"]
        metafunc.parametrize("scene", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, shared_scene: Scene, browser: Browser) -> Iterator[PageScene]:
    """Return an API server of the auth manager that the parameter names."""
    if request.param == "simple":
        yield simple_scene(shared_scene.deployment, browser)
    else:
        with fab_scene(shared_scene.deployment, browser) as scene:
            yield scene


@pytest.fixture(scope="module")
def runs(shared_scene: Scene) -> dict[str, str]:
    """Return the runs of what ends by itself."""
    for dag_id in PAGES:
        assert shared_scene.end_of(dag_id) == ("failed" if dag_id == "page_harm" else "success")
    return shared_scene.runs


@pytest.fixture(scope="module")
def running(shared_scene: Scene) -> Iterator[str]:
    """Return a run whose job runs until these tests end."""
    run_id = shared_scene.api.trigger("page_load")
    yield run_id
    shared_scene.api.set_run_state("page_load", run_id, "failed")


def expect_to_move(view: FrameLocator | Page) -> None:
    """Expect the progress to move by itself."""
    bar = view.locator("header progress")
    expect(bar).to_be_visible(timeout=PATIENCE_MS)
    now = bar.get_attribute("value")
    assert now is not None
    expect(bar).not_to_have_attribute("value", now)


def asked_by(page: Page) -> list[str]:
    """Return a list which gets all that a page asks the user routes from now on."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/async/actions" in request.url:
            asked.append(request.url)

    page.on("request", note)
    return asked


def see_again(page: Page) -> None:
    """Have a page take it that its tab is seen again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def open_load(scene: PageScene, page: Page, run_id: str) -> None:
    """Open the running action in a separate window."""
    scene.open_alone(page, f"task/page_load/{quote(run_id, safe='')}/load/-1")
    expect_to_move(page)


def test_a_run_is_started_in_airflows_ui_watched_and_stopped(scene: PageScene) -> None:
    scene.api.unpause("page_load")
    with scene.page() as page:
        page.goto(f"{scene.base_url}/dags/page_load")
        page.get_by_role("button", name="Trigger").first.click()
        with page.expect_response(lambda answer: answer.url.endswith("/page_load/dagRuns")) as triggered:
            page.get_by_role("dialog").get_by_role("button", name="Trigger").click()
        assert triggered.value.ok
        view = scene.open(page, "/dags/page_load/plugin/async_actions_of_dag")
        row = view.locator("tbody tr", has_text="etl.load").first
        expect(row.locator(".state")).to_have_text("RUNNING", timeout=PATIENCE_MS)
        row.get_by_role("link", name="etl.load").click()
        expect(view.get_by_role("heading", name="etl.load")).to_be_visible()
        expect_to_move(view)
        expect(view.get_by_role("log")).to_contain_text("copied partition", timeout=PATIENCE_MS)
        view.get_by_role("button", name="Stop").click()
        view.get_by_role("button", name="Cancel").click()
        expect(view.locator("header .state").first).to_have_text("RUNNING")
        view.get_by_role("button", name="Stop").click()
        scene.save_screenshot(page, "stop")
        view.get_by_role("button", name="Stop it").click()
        expect(view.locator(".title .state")).to_have_text(re.compile("STOPPING|STOPPED"))
        expect(view.locator(".title .state")).to_have_text("STOPPED", timeout=PATIENCE_MS)
        expect(view.get_by_role("button", name="Stop")).to_be_hidden()
        expect(view.locator(".events")).to_contain_text(f"Stopped by {USER}")


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_airflows_and_everybody_can_read_it(
    scene: PageScene, running: str, theme: Theme
) -> None:
    with scene.page(theme=theme) as page:
        view = scene.open(page, "/plugin/async_actions")
        expect(view.locator("tbody tr").nth(2)).to_be_visible()
        expect(view.locator("html")).to_have_attribute("data-theme", theme)
        scene.save_screenshot(page, f"list-{theme}")
        view = scene.open_task(page, "page_load", running, "load")
        expect_to_move(view)
        expect(view.locator("html")).to_have_attribute("data-theme", theme)
        scene.save_screenshot(page, f"action-{theme}")
        other = "light" if theme == "dark" else "dark"
        page.evaluate("theme => document.documentElement.className = theme", other)
        expect(view.locator("html")).to_have_attribute("data-theme", other)
    with scene.page(theme=theme, width=900) as page:
        scene.open_alone(page)
        expect(page.locator("tbody tr").nth(2)).to_be_visible()
        assert find_violations(page) == []
        scene.open_alone(page, "dag/page_leave")
        page.get_by_role("link", name="etl.report").click()
        expect(page.get_by_role("heading", name="Results")).to_be_visible()
        assert find_violations(page) == []
        scene.save_screenshot(page, f"ended-{theme}")


def test_what_a_job_leaves_is_shown_and_downloaded(scene: PageScene, runs: dict[str, str]) -> None:
    with scene.page() as page:
        view = scene.open_task(page, "page_leave", runs["page_leave"], "leave")
        expect(view.locator(".title .state")).to_have_text("SUCCESS")
        expect(view.get_by_role("group", name="Results")).to_have_text(re.compile(r'"orders": 2'))
        with page.expect_download() as downloaded:
            view.get_by_role("link", name="orders.csv").click()
        assert downloaded.value.path().read_text() == "order,amount\n1,20\n2,30\n"
        with page.expect_download() as downloaded:
            view.get_by_role("button", name="Download").click()
        lines = downloaded.value.path().read_text().splitlines()
        written = [line.split(" ", 1)[1] for line in lines if line.endswith("is written")]
        assert written == [f"INFO {number} % of the report is written" for number in (20, 60, 100)]
        view.get_by_label("Search the log").fill("60 %")
        expect(view.get_by_role("log").locator("mark")).to_have_text("60 %")
        expect(view.locator(".line:visible")).to_have_count(1)
        expect(view.locator(".events")).to_contain_text("Ended: SUCCESS")


def test_a_long_log_is_shown_in_part_and_downloaded_whole(scene: PageScene, runs: dict[str, str]) -> None:
    with scene.page() as page:
        scene.open_alone(page, f"task/page_talk/{quote(runs['page_talk'], safe='')}/talk/-1")
        expect(page.locator(".log h2")).to_contain_text("the last 10,000 lines")
        expect(page.locator(".line")).to_have_count(10_000)
        expect(page.locator(".gap")).to_have_text(re.compile(r"^20\d earlier lines not shown. Download"))
        expect(page.locator(".line").last).to_be_in_viewport()
        with page.expect_download() as downloaded:
            page.get_by_role("button", name="Download").click()
        lines = downloaded.value.path().read_text().splitlines()
        written = [line.split(" ", 2)[2] for line in lines if line.endswith("is there")]
        assert written == [f"row {row} is there" for row in range(1, ROWS + 1)]


def test_a_search_in_a_long_log_marks_what_is_on_the_screen(scene: PageScene, runs: dict[str, str]) -> None:
    with scene.page() as page:
        scene.open_alone(page, f"task/page_talk/{quote(runs['page_talk'], safe='')}/talk/-1")
        expect(page.locator(".line")).to_have_count(10_000)
        page.get_by_label("Search the log").fill("row 7")
        newest = page.locator(".line:visible").last
        expect(newest).to_contain_text("row 7999 ")
        expect(newest.locator("mark")).to_have_text("row 7")
        page.get_by_label("Search the log").fill("e")
        expect(page.locator(".log h2")).to_contain_text("10,000 of the last")
        expect(page.locator(".line").last.locator("mark").first).to_have_text("e")
        assert page.locator(".line:has(mark)").count() < 500
        page.get_by_role("log").evaluate("pane => pane.scrollTop = 0")
        expect(page.locator(".line").first.locator("mark")).to_have_count(2)


def test_a_search_does_not_follow_by_itself(scene: PageScene, runs: dict[str, str]) -> None:
    with scene.page() as page:
        scene.open_alone(page, f"task/page_talk/{quote(runs['page_talk'], safe='')}/talk/-1")
        expect(page.locator(".line")).to_have_count(10_000)
        pane, follow = page.get_by_role("log"), page.get_by_label("Follow")
        expect(follow).to_be_checked()
        pane.hover()
        page.mouse.wheel(0, -3_000)
        expect(follow).not_to_be_checked()
        page.get_by_label("Search the log").fill("row 777")
        expect(page.locator(".log h2")).to_contain_text("11 of")
        page.wait_for_timeout(500)
        expect(follow).not_to_be_checked()
        page.get_by_label("Search the log").fill("")
        expect(page.locator(".log h2")).not_to_contain_text("11 of")
        page.wait_for_timeout(500)
        expect(follow).not_to_be_checked()
        assert pane.evaluate("pane => pane.scrollHeight - pane.scrollTop - pane.clientHeight") > 1_000
        pane.hover()
        page.mouse.wheel(0, 1_000_000)
        expect(follow).to_be_checked()


def test_what_a_job_says_is_never_markup(scene: PageScene, runs: dict[str, str]) -> None:
    with scene.page() as page:
        view = scene.open_task(page, "page_harm", runs["page_harm"], "harm")
        expect(view.locator(".error")).to_contain_text(MARKUP)
        expect(view.get_by_role("log")).to_contain_text(MARKUP)
        expect(view.locator("header .message")).to_have_text(MARKUP)
        expect(view.locator(".files")).to_contain_text(MARKUP.replace("/", ""))
        for opened in (page, view):
            assert opened.locator("#pwned, main script, main img").count() == 0
        assert frame_of(page).evaluate("'pwned' in window || 'pwned' in window.parent") is False
        scene.open_alone(page, "dag/page_harm")
        error = page.locator("tbody tr", has_text="etl.hostile").locator(".short-error")
        expect(error).to_have_text(f"{MARKUP}: {MARKUP}")
        assert page.evaluate("'pwned' in window") is False
        assert page.locator("#pwned, main script, main img").count() == 0


def test_a_silent_program_has_its_log_in_airflow(scene: PageScene, runs: dict[str, str]) -> None:
    run_id = quote(runs["page_silent"], safe="")
    log_url = f"**/dags/page_silent/runs/{run_id}/tasks/say?try_number=1"
    with scene.page() as page:
        view = scene.open_task(page, "page_silent", runs["page_silent"], "say")
        view.get_by_role("link", name="task log").click()
        page.wait_for_url(log_url)
        expect(page.get_by_text("printed", exact=True)).to_be_visible()
        page.go_back()
        expect(view.locator(".empty")).to_contain_text("The job has not reported any lines")
        scene.open_alone(page, f"task/page_silent/{run_id}/say/-1")
        page.get_by_role("link", name="task log").click()
        page.wait_for_url(log_url)


def test_a_viewer_sees_and_cannot_stop(scene: PageScene, running: str) -> None:
    with scene.page(VIEWER) as page:
        # FAB's roles Viewer and User may not read plugins: Airflow shows them no tab.
        scene.open_alone(page, f"task/page_load/{quote(running, safe='')}/load/-1")
        expect_to_move(page)
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        uuid = page.locator(".facts code").inner_text()
        headers = "{method: 'PUT', headers: {'X-Requested-With': 'asyncaction'}}"
        stop = f"fetch('/async/actions/{uuid}/stop', {headers}).then(answer => answer.status)"
        assert page.evaluate(stop) == 403
        expect(page.locator(".title .state")).to_have_text("RUNNING")


def test_another_site_cannot_stop_an_action(scene: PageScene, running: str) -> None:
    with scene.page() as page:
        view = scene.open_task(page, "page_load", running, "load")
        uuid = view.locator(".facts code").inner_text()
        stop = f"fetch('/async/actions/{uuid}/stop', {{method: 'PUT'}}).then(answer => answer.status)"
        assert frame_of(page).evaluate(stop) == 403


def test_a_tick_is_one_small_request_and_none_while_hidden(scene: PageScene, running: str) -> None:
    with scene.page() as page:
        scene.open_alone(page, f"task/page_load/{quote(running, safe='')}/load/%7BMAP_INDEX%7D")
        expect_to_move(page)
        asked = asked_by(page)
        page.wait_for_timeout(6_500)
        assert 2 <= len(asked) <= 4
        assert all("/changes?" in url for url in asked)
        page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
        page.wait_for_timeout(2_500)
        asked.clear()
        page.wait_for_timeout(5_000)
        assert asked == []
        page.evaluate("delete document.hidden")
        see_again(page)
        expect_to_move(page)


def test_a_task_without_an_action_says_so(scene: PageScene) -> None:
    with scene.page() as page:
        scene.open_alone(page, "task/page_load/none/load/-1")
        expect(page.get_by_role("heading", name="This task has no async action")).to_be_visible()


def test_who_is_not_signed_in_is_told_where(scene: PageScene) -> None:
    with scene.page() as page:
        page.context.clear_cookies()
        scene.open_alone(page)
        page.get_by_role("link", name="Sign in to Airflow").click()
        expect(page.locator("input[type=password]")).to_be_visible()


def test_a_page_continues_once_its_user_signs_in_again(scene: PageScene, running: str) -> None:
    with scene.page() as page:
        open_load(scene, page, running)
        cookies: Any = page.context.cookies()
        page.context.clear_cookies()
        expect(page.locator("#note")).to_contain_text("You are not signed in")
        page.context.add_cookies(cookies)
        see_again(page)
        expect(page.locator("#note")).to_be_hidden()
        expect_to_move(page)


def test_a_page_that_was_opened_signed_out_continues_as_well(scene: PageScene, running: str) -> None:
    with scene.page() as page:
        cookies: Any = page.context.cookies()
        page.context.clear_cookies()
        scene.open_alone(page, f"run/page_load/{quote(running, safe='')}")
        expect(page.get_by_role("heading", name="You are not signed in")).to_be_visible()
        page.context.add_cookies(cookies)
        see_again(page)
        expect(page.locator("tbody tr")).to_have_count(1)


def test_a_sign_in_page_instead_of_an_answer_is_named(scene: PageScene, running: str) -> None:
    def sign_in(route: Route) -> None:
        route.fulfill(content_type="text/html", body="<!doctype html><title>Sign in</title>")

    with scene.page() as page:
        open_load(scene, page, running)
        page.route("**/async/actions/**", sign_in)
        expect(page.locator("#note")).to_contain_text("You may have to sign in again")
        page.unroute("**/async/actions/**")
        expect(page.locator("#note")).to_be_hidden()
        expect_to_move(page)


@pytest.mark.usefixtures("runs")
def test_the_way_back_leads_to_the_same_page_of_the_list(scene: PageScene) -> None:
    def shorten(route: Route) -> None:
        route.continue_(url=route.request.url.replace("limit=50", "limit=1"))

    with scene.page() as page:
        page.route(re.compile(r"/async/actions\?"), shorten)
        scene.open_alone(page)
        number = page.locator(".pages span")
        shown = page.locator("tbody th a")
        links = []
        for name in ("Newest", "Page 2", "Page 3"):
            expect(number).to_have_text(name)
            expect(page.get_by_role("button", name="Older")).to_be_enabled()
            expect(shown).to_have_count(1)
            links.append(shown.get_attribute("href") or "")
            if name != "Page 3":
                page.get_by_role("button", name="Older").click()
        assert len(set(links)) == 3
        shown.click()
        expect(page.locator(".facts")).to_be_visible()
        page.go_back()
        expect(number).to_have_text("Page 3")
        expect(shown).to_have_attribute("href", links[2])
        page.go_back()
        expect(number).to_have_text("Page 2")
        expect(shown).to_have_attribute("href", links[1])
        page.go_forward()
        expect(shown).to_have_attribute("href", links[2])
        page.reload()
        expect(shown).to_have_attribute("href", links[2])
        page.get_by_role("button", name="Newer").click()
        expect(number).to_have_text("Page 2")
        expect(shown).to_have_attribute("href", links[1])
        page.locator(".chip", has_text="ERROR").click()
        expect(number).to_have_text("Newest")
        assert page.url.endswith("/ui/?status=ERROR")


def test_an_old_row_that_ended_unseen_has_its_right_duration(scene: PageScene, running: str) -> None:
    def ago(**time: float) -> str:
        return (datetime.now(UTC) - timedelta(**time)).isoformat()

    told = {"createdAt": ago(hours=30), "startedAt": ago(hours=30)}

    def retell(route: Route) -> None:
        headers = {name: value for name, value in route.request.headers.items() if name != "if-none-match"}
        action = route.fetch(headers=headers).json()["actions"][0]
        route.fulfill(json={"actions": [{**action, **told}], "nextCursor": None})

    with scene.page() as page:
        page.route(re.compile(r"/async/actions\?"), retell)
        scene.open_alone(page, f"run/page_load/{quote(running, safe='')}")
        took = page.locator("tbody td").last
        expect(took).to_have_text("1 d 6 h")
        told |= {"status": "SUCCESS", "endedAt": ago(hours=5)}
        expect(page.locator("tbody .state")).to_have_text("SUCCESS")
        expect(took).to_have_text("1 d 1 h")
        page.unroute_all(behavior="ignoreErrors")


@pytest.mark.usefixtures("runs")
def test_filters_are_in_the_address(scene: PageScene) -> None:
    with scene.page() as page:
        scene.open_alone(page)
        states = page.locator("tbody .state")
        others = page.locator("tbody .state:not([data-state=ERROR])")
        expect(others.first).to_be_visible()
        page.locator(".chip", has_text="ERROR").click()
        expect(others).to_have_count(0)
        page.reload()
        expect(states.first).to_be_visible()
        expect(others).to_have_count(0)
        page.get_by_label("Type").fill("nothing")
        expect(page.locator(".empty")).to_have_text("No actions match these filters.")
        page.get_by_role("button", name="Clear filters").click()
        expect(others.first).to_be_visible()


def test_the_page_of_a_try_finds_the_next_one(scene: PageScene) -> None:
    scene.api.trigger("page_retried")
    with scene.page() as page:
        scene.open_alone(page, "dag/page_retried")
        row = page.locator("tbody tr")
        expect(row.locator(".state")).to_have_text("ERROR", timeout=PATIENCE_MS)
        row.get_by_role("link", name="etl.retried").click()
        expect(page.locator(".title")).to_contain_text("another attempt may follow")
        expect(page.get_by_role("navigation", name="Attempts")).to_be_hidden()
        asked, since = asked_by(page), time.monotonic()
        expect(page.get_by_role("link", name="Attempt 2")).to_be_visible(timeout=PATIENCE_MS)
        looks = sum("/changes?" in url for url in asked)
        assert 1 <= looks <= (time.monotonic() - since) / 10 + 1
        expect(page.locator(".title")).not_to_contain_text("another attempt")


def test_who_may_read_neither_logs_nor_results_sees_none_elsewhere(scene: PageScene) -> None:
    run_id = scene.api.trigger("page_secret")
    assert scene.api.wait_for_run("page_secret", run_id, timeout_seconds=PATIENCE_SECONDS) == "failed"
    listed = scene.get(LOOKER, f"/actions?dag=page_secret&run={quote(run_id, safe='')}").json()["actions"]
    told_in = {"print": ("", "/changes"), "etl.refused": ("/changes", "/reports")}
    assert {action["type"] for action in listed} == set(told_in)
    for action in listed:
        path = f"/actions/{action['uuid']}"
        assert scene.get(LOOKER, f"{path}/logs").status_code == 403
        for part in ("", "/changes", "/reports"):
            shown = {user: scene.get(user, path + part).text for user in (USER, LOOKER)}
            assert "hunter2" not in shown[LOOKER]
            assert ("hunter2" in shown[USER]) == (part in told_in[action["type"]])
    assert "hunter2" not in json.dumps(listed)
