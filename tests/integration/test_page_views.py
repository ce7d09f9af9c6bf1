# SPDX-License-Identifier: Apache-2.0
"""Page in a browser, at the sizes of a phone, a tablet and a desktop: correct and never clipped.

Jobs report over HTTP, as everywhere. There is no Airflow around the page here: see ``tests/system``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import update

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.store.models import action_table
from tests.integration.databases import Database
from tests.integration.signed_jobs import SignedJob
from tests.integration.user_site import UserSite, user_site
from tests.system.browser import browser_or_skip
from tests.system.page_scene import find_violations

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("database", ["sqlite"], indirect=True)]

DAG_ID = "page_views"
LONG = "extract_and_transform_the_orders_of_every_region_in_a_dag_whose_name_nobody_would_choose"
CAUSE = "sqlalchemy.exc.IntegrityError: duplicate key value violates unique constraint orders_pkey"
TAIL = ["Traceback (most recent call last):", *(f"  File pipeline/stage_{n}.py" for n in range(18)), CAUSE]
LINES = 10_050
KEPT = 50
LARGE = 12345678901234567890123
HOSTILE = {"progress": 5, "message": {"toString": 1, "valueOf": {"__proto__": LARGE}}}
RESULTS: list[Any] = [0, None, "", [False, 1.5, LARGE, {"of": {"all": ["kinds", {}]}}, "two\nlines"]]
WIDTHS = {"phone": 360, "tablet": 820, "desktop": 1440}

CLIPPED = """element => [...element.querySelectorAll('*')]
    .filter(each => each.checkVisibility() && !each.closest('.unseen, thead'))
    .filter(each => getComputedStyle(each).display !== 'inline') // a text that is cut, with an ellipsis
    .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(each => each.outerHTML.slice(0, 200))"""

Theme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browser_or_skip() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(database: Database) -> Iterator[UserSite]:
    with user_site(database) as site:
        yield site


def started(job: SignedJob, **fields: Any) -> JobId:
    job.send_message(Launched({"host": "worker-1", "pid": 4711}))
    assert job.report(**fields).status == 200
    return job.info.job_id


@pytest.fixture(scope="module")
def uuids(site: UserSite) -> dict[str, JobId]:
    """Return actions in all sorts of states, by name."""
    uuids = {}
    part = {"progress": 60.9, "message": "part 6 of 10"}
    with site.job(DAG_ID, type="etl.waits") as job:
        uuids["starting"] = job.info.job_id
    with site.job(DAG_ID, type="etl.fails") as job:
        uuids["failed"] = started(job, statusDetails=part, logs=["one line"])
        job.send_message(Exit(code=1, tail=TAIL))
    with site.job(DAG_ID, map_index=3, map_name="orders of <b>May</b>", type="etl.skips") as job:
        uuids["skipped"] = started(job, statusDetails=part)
        job.send_message(Exit(code=99, is_skip=True))
    with site.job(DAG_ID, type="etl.succeeds") as job:
        uuids["succeeded"] = started(job, statusDetails=part)
        job.send_message(Exit(code=0))
    with site.job(DAG_ID, f"group.{LONG}", map_index=1234, type=LONG, runner="kubernetes") as job:
        message = "w" * 1000
        uuids["long"] = started(job, statusDetails={"progress": 99.6, "message": message})
        job.report(status="ERROR", errorName="E" * 250, errorMessage="much to say " * 1000)
    with site.job(DAG_ID, type="etl.talks", max_log_lines=KEPT) as job:
        uuids["talks"] = started(job)
        for first in range(1, LINES, 1000):
            rows = range(first, min(first + 1000, LINES + 1))
            logs = [{"message": f"row {row}", "time": 1_790_000_000_000 + row} for row in rows]
            assert job.report(logs=logs).status == 200
    return uuids


@contextmanager
def opened(browser: Browser, site: UserSite, path: str, theme: Theme = "light") -> Iterator[Page]:
    """Open a view, signed in; what its scripts log as an error fails the test."""
    failures: list[str] = []
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=theme)
    context.add_cookies([{"name": "_token", "value": site.token, "url": site.url}])
    page = context.new_page()
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
    try:
        page.goto(f"{site.hook}/ui/{path}")
        yield page
        assert failures == []
    finally:
        context.close()


def row_of(page: Page, type_: str) -> Locator:
    return page.locator("tbody tr").filter(has=page.get_by_role("link", name=type_, exact=True))


def edge(element: Locator, name: str) -> float:
    return float(element.evaluate(f"element => element.getBoundingClientRect().{name}"))


def expect_nothing_clipped(page: Page) -> None:
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator("main").evaluate(CLIPPED) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_an_iteration_of_a_loop_is_named_as_airflows_ui_does(browser: Browser, site: UserSite) -> None:
    with site.job("loops", type="etl.polls") as job:
        uuid = started(job)
    of_it = action_table.c.id == uuid
    with site.database.engine.begin() as connection:
        connection.execute(update(action_table).where(of_it).values(iteration=2))
    with opened(browser, site, f"action/{uuid}") as page:
        expect(page.get_by_text("load (iteration 2)")).to_be_visible()
        expect(page.locator("dl.facts")).to_contain_text("Iteration2")
    with opened(browser, site, "dag/loops") as page:
        expect(row_of(page, "etl.polls")).to_contain_text("load (iteration 2)")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_read_the_list_on_any_screen(
    browser: Browser, site: UserSite, uuids: dict[str, JobId], theme: Theme
) -> None:
    with opened(browser, site, f"dag/{DAG_ID}", theme) as page:
        expect(page.locator("tbody tr")).to_have_count(len(uuids))
        expect_nothing_clipped(page)
        page.set_viewport_size({"width": WIDTHS["phone"], "height": 900})
        failed = row_of(page, "etl.fails")
        for shown in ("etl.fails", "load", "ERROR", "60%", "ExitCode: The job exited with code 1"):
            text = failed.get_by_text(shown, exact=True)
            text.scroll_into_view_if_needed()
            expect(text).to_be_in_viewport(ratio=0.9)
        expect(page.get_by_role("row")).to_have_count(1 + len(uuids))  # it is a table for screen readers, too
        assert find_violations(page) == []
        succeeded = row_of(page, "etl.succeeds")
        expect(succeeded.locator(".percent")).to_have_text("100%")
        expect(succeeded.get_by_role("progressbar")).to_have_js_property("value", 100)
        expect(row_of(page, LONG).locator(".percent")).to_have_text("99%")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_read_an_action_on_any_screen(
    browser: Browser, site: UserSite, uuids: dict[str, JobId], theme: Theme
) -> None:
    with opened(browser, site, f"action/{uuids['long']}", theme) as page:
        expect(page.locator(".error")).to_contain_text("much to say")
        expect_nothing_clipped(page)
        assert find_violations(page) == []


def test_an_error_opens_at_its_cause(browser: Browser, site: UserSite, uuids: dict[str, JobId]) -> None:
    with opened(browser, site, f"action/{uuids['failed']}") as page:
        error = page.get_by_role("region", name="Error")
        pane = error.get_by_role("group", name="Last lines")
        expect(pane).to_contain_text(CAUSE)
        for width in WIDTHS.values():
            page.set_viewport_size({"width": width, "height": 600})
            for shown in ("ExitCode", "The job exited with code 1"):
                expect(error.get_by_text(shown, exact=True)).to_be_in_viewport(ratio=0.9)
            assert pane.evaluate("pane => pane.scrollHeight > pane.clientHeight")
            ends = "[pane, pane.firstChild].map(each => Math.round(each.getBoundingClientRect().bottom))"
            assert len(set(pane.evaluate(f"pane => {ends}"))) == 1  # it is at its end
        pane.focus()
        page.keyboard.press("Home")
        expect(pane).not_to_have_js_property("scrollTop", 0)
        page.wait_for_timeout(2_500)  # it is fetched again, and keeps its scroll position
        expect(pane).not_to_have_js_property("scrollTop", 0)
        bar = page.locator("header .progress")
        expect(bar.locator("progress")).to_have_js_property("value", 60.9)
        assert bar.get_attribute("data-state") == "ERROR"


@pytest.mark.usefixtures("uuids")
def test_a_skipped_action_is_distinguished_from_a_failed_one(browser: Browser, site: UserSite) -> None:
    with opened(browser, site, f"dag/{DAG_ID}") as page:
        row = row_of(page, "etl.skips")
        expect(row.locator(".state")).to_have_text("SKIPPED")
        expect(row).to_contain_text("Skipped: The job exited with code 99")
        row.get_by_role("link", name="etl.skips").click()
        expect(page.locator("header .state").first).to_have_text("SKIPPED")
        expect(page.get_by_role("region", name="Skipped")).to_contain_text("which skips the task")
        expect(page.get_by_role("region", name="Error")).to_have_count(0)
        expect(page.locator(".events li[data-tone=bad]")).to_have_count(0)
        assert find_violations(page) == []


def test_a_mapped_task_is_shown_by_its_name(
    browser: Browser, site: UserSite, uuids: dict[str, JobId]
) -> None:
    with opened(browser, site, f"dag/{DAG_ID}") as page:
        name = "load [orders of <b>May</b>]"
        expect(row_of(page, "etl.skips").get_by_role("link", name=name)).to_be_visible()
        page.get_by_role("link", name="etl.skips").click()
        expect(page.get_by_role("navigation", name="Breadcrumbs")).to_contain_text(name)
        page.goto(f"{site.hook}/ui/action/{uuids['long']}")  # without a name
        expect(page.get_by_role("navigation", name="Breadcrumbs")).to_contain_text(f"group.{LONG} [1234]")


def test_the_task_log_is_linked_beside_what_was_reported(
    browser: Browser, site: UserSite, uuids: dict[str, JobId]
) -> None:
    with opened(browser, site, f"action/{uuids['failed']}") as page:
        expect(page.locator(".line")).to_have_count(1)
        run_id = site.get(f"/actions/{uuids['failed']}")["runId"]
        href = f"/dags/{DAG_ID}/runs/{run_id}/tasks/load?try_number=1"
        expect(page.get_by_role("link", name="Task log")).to_have_attribute("href", href)


def test_line_numbers_of_any_length_have_room(
    browser: Browser, site: UserSite, uuids: dict[str, JobId]
) -> None:
    with opened(browser, site, f"action/{uuids['talks']}") as page:
        expect(page.locator(".line")).to_have_count(KEPT)
        expect(page.locator(".line-number").last).to_have_text(str(LINES))
        for width in WIDTHS.values():
            page.set_viewport_size({"width": width, "height": 900})
            last = page.locator(".line").last
            expect(last).to_be_in_viewport()  # it follows, also when the window changes
            number, time, text = (last.locator(f".{name}") for name in ("line-number", "line-time", "text"))
            assert number.evaluate("number => number.scrollWidth <= number.clientWidth")
            assert edge(number, "right") <= edge(time, "left")
            assert edge(text, "right") - edge(text, "left") > 200


def test_results_of_every_kind_are_shown_as_they_are(browser: Browser, site: UserSite) -> None:
    for value in RESULTS:
        with site.job("page_results", type="etl.results") as job:
            uuid = started(job, status="SUCCESS", results=value, statusDetails=HOSTILE)
        with opened(browser, site, f"action/{uuid}") as page:
            results = page.get_by_role("group", name="Results")
            expect(results).to_be_visible()
            assert results.inner_text() == json.dumps(value, indent=2)


def test_a_list_has_the_beginning_of_an_error(site: UserSite, uuids: dict[str, JobId]) -> None:
    listed = {action["uuid"]: action for action in site.get(f"/actions?dag={DAG_ID}")["actions"]}
    failed, long = listed[uuids["failed"]], listed[uuids["long"]]
    assert (failed["errorName"], failed["errorMessage"]) == ("ExitCode", "The job exited with code 1")
    assert (len(long["errorMessage"]), len(long["message"])) == (300, 300)
    whole = site.get(f"/actions/{uuids['long']}")
    assert (len(whole["errorMessage"]), len(whole["statusDetails"]["message"])) == (12_000, 1000)


def test_an_action_that_succeeded_is_complete(site: UserSite, uuids: dict[str, JobId]) -> None:
    whole = site.get(f"/actions/{uuids['succeeded']}")
    assert (whole["progress"], whole["statusDetails"]["progress"]) == (100, 60.9)
    assert site.get(f"/actions/{uuids['failed']}")["progress"] == 60.9
    assert site.get(f"/actions/{uuids['talks']}")["progress"] is None
