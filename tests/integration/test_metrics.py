# SPDX-License-Identifier: Apache-2.0
"""Metrics in a StatsD server: reports and ends are counted once, and failures do no harm."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from airflow._shared.observability.metrics import stats as shared_stats
from airflow._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.observability import stats

from airflow_asyncaction import settings
from airflow_asyncaction.protocol import actions as protocol
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Stop
from airflow_asyncaction.store import metrics
from airflow_asyncaction.store.actions import Actions, supersede
from airflow_asyncaction.store.launching import reconcile_queued
from airflow_asyncaction.store.metrics import METRICS, MetricKind
from airflow_asyncaction.store.state_counts import count_active
from airflow_asyncaction.web.app import create_app
from airflow_asyncaction.web.reconciler import Reconciler
from tests.integration.databases import Database, on_postgresql
from tests.integration.running_tasks import RunningTask, running_task
from tests.integration.servers import Prepared, Uncompleted, served_mounted
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, registered

pytestmark = pytest.mark.integration

_LINE = re.compile(r"airflow\.(?P<name>asyncaction[^:,]*)(?P<tags>(,[^:]*)?):(?P<value>[^|]*)\|(?P<kind>\w+)")
_KINDS = {"c": MetricKind.COUNTER, "g": MetricKind.GAUGE, "ms": MetricKind.TIMER}
_PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Received:
    """One value that came."""

    name: str
    tags: str
    value: float
    kind: MetricKind


class StatsdServer:
    """A UDP socket, and what has come to it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._received: list[Received] = []

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        self._socket.close()

    def received(self) -> list[Received]:
        """Return all that has come; nothing on one machine is under way when its sender has been answered."""
        self._socket.settimeout(0.05)
        try:
            while True:
                self._received += _parsed(self._socket.recv(65536).decode())
        except TimeoutError:
            return self._received

    def counts(self) -> Counter[str]:
        """Return the sum of each counter."""
        counts: Counter[str] = Counter()
        for one in self.received():
            if one.kind is MetricKind.COUNTER:
                counts[one.name] += int(one.value)
        return counts

    def of(self, metric: metrics.Metric) -> list[Received]:
        return [one for one in self.received() if one.name == metric.name]


def _parsed(text: str) -> list[Received]:
    return [
        Received(found["name"], found["tags"], float(found["value"]), _KINDS[found["kind"]])
        for found in _LINE.finditer(text)
    ]


def close_client() -> None:
    """Close the socket that Airflow leaves open when metrics are configured again."""
    client = getattr(shared_stats._backend, "statsd", None)
    if client is not None:
        client.close()


Configure = Callable[..., None]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Return what configures metrics as Airflow's API server does."""
    with pytest.MonkeyPatch.context() as patch:

        def set_options(**options: str) -> None:
            for name, value in options.items():
                patch.setenv(f"AIRFLOW__METRICS__{name.upper()}", value)
            metrics.is_enabled.cache_clear()
            metrics._warn_once.cache_clear()
            close_client()
            metrics.initialize()

        yield set_options
    close_client()
    metrics.is_enabled.cache_clear()
    stats.initialize(factory=NoStatsLogger, export_legacy_names=False)


@pytest.fixture
def statsd(configure: Configure) -> Iterator[StatsdServer]:
    server = StatsdServer()
    configure(statsd_on="True", statsd_host="127.0.0.1", statsd_port=str(server.port))
    yield server
    server.close()


@pytest.fixture
def hook(database: Database) -> Iterator[str]:  # noqa: ARG001
    with served_mounted(Prepared(create_app())) as url:
        yield url + settings.load().url


@pytest.fixture
def job(statsd: StatsdServer, new_job: NewJob) -> SignedJob:  # noqa: ARG001 - it counts from here on
    return new_job()


def test_reports_are_counted_and_timed(statsd: StatsdServer, job: SignedJob) -> None:
    answers = [job.report(), job.report(logs=["line"]), job.send("POST", "/status", b"no json")]
    job.send("GET", "/job")
    stranger = job.send("POST", "/status", time_ms=1)
    assert [answer.status for answer in (*answers, stranger)] == [200, 200, 400, 401]
    assert statsd.counts() == {
        "asyncaction.reports.accepted": 2,
        "asyncaction.reports.refused": 2,
        "asyncaction.reports.refused.malformed": 1,
        "asyncaction.reports.refused.stale_time": 1,
    }
    latencies = statsd.of(metrics.REPORT_LATENCY)
    assert len(latencies) == 4
    assert all(0 < one.value < 10_000 and one.kind is MetricKind.TIMER for one in latencies)


@on_postgresql
def test_fast_reports_are_counted_and_timed_in_the_same_way(database: Database, statsd: StatsdServer) -> None:
    app = Uncompleted()
    with served_mounted(app) as url, HookClient(url + settings.load().url) as client:
        batches = app.wait_for_batches(client.hook)
        job = registered(running_task(database.engine), client)
        before, timed = Counter(statsd.counts()), len(statsd.of(metrics.REPORT_LATENCY))
        assert [job.report().status, job.report(logs=["line"]).status] == [200, 200]
        assert batches.written == 2
        assert Counter(statsd.counts()) - before == {"asyncaction.reports.accepted": 2}
        assert len(statsd.of(metrics.REPORT_LATENCY)) == timed + 2


def ended(statsd: StatsdServer) -> dict[str, int]:
    """Return how many actions have ended by their state, and make sure that the sum is that of all."""
    prefix = metrics.ACTIONS_ENDED.name
    counts = {name: count for name, count in statsd.counts().items() if name.startswith(prefix)}
    if counts:
        assert counts.pop(prefix) == sum(counts.values())
    return {name.removeprefix(f"{prefix}."): count for name, count in counts.items()}


def test_an_end_is_counted_when_nothing_more_can_change_it(statsd: StatsdServer, job: SignedJob) -> None:
    job.report(status="SUCCESS")
    assert ended(statsd) == {}
    job.send_message(Exit(code=3))
    assert ended(statsd) == {"error": 1}
    job.send_message(Exit(code=3))
    job.report(status="ERROR")
    assert ended(statsd) == {"error": 1}
    (duration,) = statsd.of(metrics.ACTION_DURATION)
    assert 0 <= duration.value < 60_000


def test_a_resent_report_is_not_a_second_end(statsd: StatsdServer, new_job: NewJob) -> None:
    job = new_job(completion=protocol.Completion.REPORT)
    for _ in range(2):
        assert job.report(nonce="n" * 20, status="SUCCESS").status == 200
    assert ended(statsd) == {"success": 1}
    assert statsd.counts()["asyncaction.reports.accepted"] == 2


def test_every_end_is_counted_once(statsd: StatsdServer, new_job: NewJob, actions: Actions) -> None:
    stopped = new_job()
    stopped.send_message(Stop(StopReason.REQUESTED))
    stopped.send_message(Exit(code=0))
    stopped.send_message(Abandon())
    late = new_job(start_timeout=timedelta(milliseconds=1))
    time.sleep(0.01)
    assert late.view().is_done
    assert late.view().is_done
    unwatched = new_job().info.job_id
    assert actions.apply_message(unwatched, Abandon(), datetime.now(UTC)).after.state is State.STOPPED
    actions.apply_message(unwatched, Abandon(), datetime.now(UTC))
    assert ended(statsd) == {"stopped": 2, "timeout": 1}


def test_an_action_ends_when_the_next_try_takes_over(
    statsd: StatsdServer, new_task: Callable[..., RunningTask], client: HookClient
) -> None:
    task = new_task()
    registered(task, client)
    registered(task.next_try(), client)
    assert ended(statsd) == {"stopped": 1}


def test_a_rollback_is_not_counted(statsd: StatsdServer, job: SignedJob, actions: Actions) -> None:
    with suppress(ZeroDivisionError), actions.database.transaction() as connection:
        supersede(connection, job.info.job_id, datetime.now(UTC))
        assert 1 / 0
    with actions.database.transaction():
        pass
    assert ended(statsd) == {}
    actions.apply_message(job.info.job_id, Abandon(), datetime.now(UTC))
    assert ended(statsd) == {"stopped": 1}


def test_tags_are_type_and_state(statsd: StatsdServer, configure: Configure, new_job: NewJob) -> None:
    configure(statsd_influxdb_enabled="True")
    new_job(type="etl.load, all=1").send_message(Exit(code=0))
    new_job().report(status="NONSENSE")
    (counted,) = statsd.of(metrics.ACTIONS_ENDED)
    assert counted.tags == ",state=success,type=etl.load__all_1"
    assert {one.tags for one in statsd.of(metrics.REPORTS_REFUSED)} == {",reason=malformed"}


def test_a_server_records_how_many_have_not_ended(
    statsd: StatsdServer, job: SignedJob, actions: Actions
) -> None:
    actions.complete_due(datetime.now(UTC))
    reconcile_queued(actions, datetime.now(UTC))
    before = count_active(actions.database)
    assert set(before) == {State.SCHEDULED, State.QUEUED, State.STARTING, State.RUNNING}
    job.report()
    reconciler = Reconciler(actions, interval_seconds=0.05)
    reconciler.start()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not statsd.of(metrics.ACTIONS_ACTIVE) and time.monotonic() < deadline:
        pass
    time.sleep(0.3)
    reconciler.stop()
    gauges = {one.name: one.value for one in statsd.received() if one.kind is MetricKind.GAUGE}
    name = metrics.ACTIONS_ACTIVE.name
    assert gauges[name] == sum(before.values())
    assert gauges[f"{name}.starting"] == before[State.STARTING] - 1
    assert gauges[f"{name}.running"] == before[State.RUNNING] + 1
    assert gauges[f"{name}.scheduled"] == before[State.SCHEDULED]
    assert len(statsd.of(metrics.ACTIONS_ACTIVE)) == 1  # it looks for what is due much more often


def test_all_metrics_are_described(statsd: StatsdServer, job: SignedJob) -> None:
    job.report()
    job.send("POST", "/status", b"no json")
    job.send_message(Exit(code=0))
    metrics.record_active({State.QUEUED: 1})
    described = {metric.name: metric for metric in METRICS}
    sent = statsd.received()
    assert {one.name for one in sent} >= set(described)
    for one in sent:
        metric = described.get(one.name) or described[one.name.rpartition(".")[0]]
        assert one.kind is metric.kind
        assert one.name == metric.name or metric.suffix is not None


@pytest.mark.parametrize(
    "options",
    [
        {"statsd_host": "127.0.0.1", "statsd_port": "1"},
        {"statsd_host": "127.0.0.1", "statsd_custom_client_path": "airflow_asyncaction.nowhere"},
        {"statsd_host": "no.such.host.invalid"},
    ],
)
def test_a_failing_metrics_server_fails_no_report(
    configure: Configure,
    new_job: NewJob,
    options: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure(statsd_on="True", **options)
    job = new_job()
    with caplog.at_level(logging.WARNING, "airflow_asyncaction"):
        assert job.report().status == 200
        assert job.report(status="SUCCESS").status == 200
        assert job.send_message(Exit(code=0)).is_done
    assert caplog.text.count("Could not send metrics") <= 1


def test_nothing_is_counted_if_metrics_are_off(
    configure: Configure, new_job: NewJob, actions: Actions
) -> None:
    server = StatsdServer()
    configure(statsd_host="127.0.0.1", statsd_port=str(server.port))
    job = new_job()
    job.report(status="SUCCESS")
    job.send_message(Exit(code=0))
    reconciler = Reconciler(actions, interval_seconds=0.02)
    reconciler.start()
    time.sleep(0.1)
    reconciler.stop()
    assert server.received() == []
    server.close()
