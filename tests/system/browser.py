# SPDX-License-Identifier: Apache-2.0
"""Chromium browser for tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

from tests.requirements import leave_out

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",  # tests may run as root; it opens nothing but the Airflow of the tests
)


@contextmanager
def browser_or_skip() -> Iterator[Browser]:
    """Run Chromium. If it is missing, skip the test with installation advice, or fail."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        leave_out("no browser: apt-get install chromium")
    expect.set_options(timeout=30_000)  # the machine may be busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()
