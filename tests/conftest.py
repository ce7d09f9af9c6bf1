# SPDX-License-Identifier: Apache-2.0
"""Airflow in the test process: a temporary home, isolated from the environment of the user."""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

from dev.postgres import Postgres
from tests.scale import load_profile
from tests.shared import WORKER, SharedServices

load_profile()

# In the background, or below nohup, some signals are ignored, which children would inherit. A signal with a
# handler does nothing here either, and is the default one again in children.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda _number, _frame: None)

FOREIGN = ("AIRFLOW", "_AIRFLOW", "JOB_")

# Set at import, because Airflow reads its environment when the first test imports it.
for _name in [name for name in os.environ if name.startswith(FOREIGN)]:
    del os.environ[_name]
_home = tempfile.mkdtemp(prefix="asyncaction-home-")
os.environ.update(
    AIRFLOW_HOME=_home,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__FERNET_KEY=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    AIRFLOW__ASYNCACTION__GC_FREEZE="False",
    AIRFLOW__ASYNCACTION__MAX_REQUESTS_PER_SECOND="1000",
    AIRFLOW__ASYNCACTION__MAX_BYTES_PER_SECOND="0",
)


FIRST = (
    "system",
    "pods",
    "test_pod_trigger",
    "test_kube_runner",
    "test_pod_watch",
    "test_without_api_server",
    "test_upgrade",
)
"""Groups of tests that take longest."""


RACES = {
    "test_adoption",
    "test_cancelled_reports",
    "test_completion",
    "test_ends_by_time",
    "test_fast_reports",
    "test_file_faults",
    "test_guard",
    "test_job_outages",
    "test_launching",
    "test_local_runner",
    "test_orphans",
    "test_parallel_reports",
    "test_registration",
    "test_report_databases",
    "test_report_servers",
    "test_remote",
    "test_service_runner",
    "test_wrap",
}
"""Modules that test race conditions: ``make soak`` repeats them."""


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the home. After the last test of all processes, stop the shared services."""
    shutil.rmtree(_home, ignore_errors=True)
    if WORKER == "main" and hasattr(config, "_tmp_path_factory"):
        shared_services(config._tmp_path_factory).stop()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest groups first, and mark the tests of race conditions."""
    items.sort(
        key=lambda item: FIRST.index(group_of(item.nodeid)) if group_of(item.nodeid) in FIRST else len(FIRST)
    )
    for item in items:
        if item.path.stem in RACES:
            item.add_marker(pytest.mark.race)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Schedule all tests of a group in one process."""
    return GroupScheduling(config, log)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Assigns the next group of tests to the first idle process."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@cache
def group_of(nodeid: str) -> str:
    """Return the group of a test: its module and database, or the Airflow that several modules share."""
    path, _, name = nodeid.partition("::")
    folder, stem = Path(path).parts[-2], Path(path).stem
    if folder == "system" and stem != "test_upgrade":  # it has an Airflow of its own
        return "pods" if "pod" in stem else "system"
    database = re.search(r"\[.*\b(sqlite|postgresql)\b", name)
    return f"{stem} {database[1]}" if database else stem


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for each reason why tests were skipped, and how to run them."""
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} tests were skipped. {reason.removeprefix('Skipped: ')}")


def shared_services(factory: pytest.TempPathFactory) -> SharedServices:
    """Return the services of this run. The folder of an xdist process is below that of the run."""
    base = factory.getbasetemp()
    return SharedServices((base if WORKER == "main" else base.parent) / "shared")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedServices:
    return shared_services(tmp_path_factory)


@pytest.fixture(scope="session")
def postgres_server(shared: SharedServices) -> Postgres:
    """Return the PostgreSQL server of all tests."""
    return shared.postgres()


@pytest.fixture(autouse=True)
def no_new_secrets() -> Iterator[None]:
    """Remove the secrets that Airflow's maskers learn in a test: they may be words of other tests' texts."""
    before = {name: (masker.patterns.copy(), masker.replacer) for name, masker in _maskers()}
    yield
    for name, masker in _maskers():
        masker.patterns, masker.replacer = before.get(name, (set(), None))


def _maskers() -> Iterator[tuple[str, Any]]:
    """Yield the maskers of this process for tasks and servers, as far as they are in use."""
    for name in ("airflow.sdk._shared.secrets_masker", "airflow._shared.secrets_masker"):
        if module := sys.modules.get(name):
            yield name, module._secrets_masker()


@pytest.fixture
def mask() -> Callable[..., None]:
    """Return Airflow's ``mask_secret``."""
    from airflow.sdk.log import mask_secret

    return mask_secret
