# SPDX-License-Identifier: Apache-2.0
"""Spans of actions, exported by Airflow's own tracer to an OpenTelemetry collector over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from airflow._shared.observability.traces import configure_otel
from airflow.configuration import conf
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util._once import Once

from airflow_asyncaction import settings
from airflow_asyncaction.protocol import actions as protocol
from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.store import spans
from airflow_asyncaction.store.models import report_table
from airflow_asyncaction.store.reports import Envelope, columns
from airflow_asyncaction.web.app import create_app
from tests.integration.databases import Database
from tests.integration.servers import Prepared, served_mounted
from tests.integration.signed_jobs import NewJob

pytestmark = pytest.mark.integration

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, and keeps the spans."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ours(self) -> list[Span]:
        """Return the spans that were emitted until now."""
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        assert provider.force_flush()
        return [span for span in self.spans if span.name.startswith("async_action ")]

    def the_only(self) -> Span:
        (span,) = self.ours()
        return span


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert isinstance(self.server, Collector)
        request = ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base has it
        """Say nothing."""


@pytest.fixture
def tracing() -> Iterator[pytest.MonkeyPatch]:
    """Allow tracing to be configured again: OpenTelemetry allows it only once per process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", None)
        patch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
        patch.setenv("OTEL_TRACES_EXPORTER", "otlp_proto_http")
        spans.is_enabled.cache_clear()
        yield patch
        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.shutdown()
    spans.is_enabled.cache_clear()


@pytest.fixture
def collector(tracing: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        tracing.setenv("AIRFLOW__TRACES__OTEL_ON", "True")
        tracing.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        configure_otel(conf)  # as each process of Airflow's does
        yield collector
        collector.shutdown()
        thread.join()


@pytest.fixture
def hook(database: Database) -> Iterator[str]:  # noqa: ARG001
    with served_mounted(Prepared(create_app())) as url:
        yield url + settings.load().url


def attributes(of: Any) -> dict[str, str | int]:
    """Return attributes as Python has them."""
    return {
        one.key: one.value.string_value if one.value.HasField("string_value") else one.value.int_value
        for one in of.attributes
    }


def test_an_action_is_a_span_with_its_reports_as_events(collector: Collector, new_job: NewJob) -> None:
    job = new_job(type="etl.load", traceparent=TRACEPARENT)
    job.send_message(Launched({"pid": 1}))
    job.report(logs=["one", "two"])
    job.send("POST", "/status", b"no json")
    job.report(status="SUCCESS", results=1)
    assert collector.ours() == []
    job.send_message(Exit(code=0))
    span = collector.the_only()
    assert (span.name, span.kind) == ("async_action etl.load", Span.SPAN_KIND_CONSUMER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.status.code == Status.STATUS_CODE_OK
    said = attributes(span)
    assert said.pop("airflow.dag_run.run_id")
    assert said == {
        "airflow.dag_id": "dag",
        "airflow.task_id": "task",
        "airflow.task_instance.map_index": -1,
        "asyncaction.id": job.info.job_id,
        "asyncaction.type": "etl.load",
        "asyncaction.attempt": 1,
        "asyncaction.runner": "local",
        "asyncaction.state": "SUCCESS",
        "asyncaction.reports": 2,
        "asyncaction.reports_refused": 1,
    }
    assert [event.name for event in span.events] == ["launched", "report", "report", "SUCCESS", "exit"]
    assert attributes(span.events[1]) == {"scheme": "v2", "log_lines": 2}
    assert attributes(span.events[2])["refused_with"] == "malformed"
    times = [event.time_unix_nano for event in span.events]
    # The exit is reported after the end, which comes from the report.
    assert times == sorted(times)
    assert span.start_time_unix_nano <= times[0]
    assert times[-2] == span.end_time_unix_nano


def test_a_span_has_the_error_of_its_action(collector: Collector, new_job: NewJob) -> None:
    new_job(traceparent=TRACEPARENT).send_message(Exit(code=3))
    span = collector.the_only()
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "ExitCode")
    assert attributes(span)["asyncaction.error_name"] == "ExitCode"


def test_the_last_reports_of_many_are_events(
    database: Database, collector: Collector, new_job: NewJob
) -> None:
    job = new_job(completion=protocol.Completion.REPORT, traceparent=TRACEPARENT)
    job.report(logs=["the first"])
    with database.engine.begin() as connection:
        for number in range(150):
            key = Envelope(f"more{number}", Scheme.V2, b"")
            more = columns(job.info.job_id, key, datetime.now(UTC), kind="heartbeat")
            connection.execute(report_table.insert().values(more))
    job.report(status="SUCCESS")
    events = collector.the_only().events
    assert len(events) == spans.MAX_EVENTS
    assert (events[0].name, events[-1].name) == ("heartbeat", "SUCCESS")


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_an_action_without_a_task_trace_is_one_of_its_own(
    collector: Collector, new_job: NewJob, traceparent: str | None
) -> None:
    new_job(traceparent=traceparent).send_message(Exit(code=0))
    assert collector.the_only().parent_span_id == b""


def test_a_trace_that_is_not_sampled_gets_no_span(collector: Collector, new_job: NewJob) -> None:
    new_job(traceparent=TRACEPARENT[:-2] + "00").send_message(Exit(code=0))
    assert collector.ours() == []


def test_a_missing_collector_fails_no_report(tracing: pytest.MonkeyPatch, new_job: NewJob) -> None:
    tracing.setenv("AIRFLOW__TRACES__OTEL_ON", "True")
    tracing.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    tracing.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    configure_otel(conf)
    job = new_job(completion=protocol.Completion.REPORT, traceparent=TRACEPARENT)
    assert job.report(status="SUCCESS").status == 200


def test_a_span_that_cannot_be_emitted_fails_no_report(
    collector: Collector, new_job: NewJob, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(trace.TracerProvider):
        def get_tracer(self, *_: object, **__: object) -> trace.Tracer:
            raise RuntimeError("broken")

    working = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = Broken()
    try:
        job = new_job(completion=protocol.Completion.REPORT, traceparent=TRACEPARENT)
        assert job.report(status="SUCCESS").status == 200
    finally:
        trace._TRACER_PROVIDER = working
    assert "Could not emit the span" in caplog.text
    assert collector.ours() == []


def test_nothing_is_emitted_if_traces_are_disabled(tracing: pytest.MonkeyPatch, new_job: NewJob) -> None:
    tracing.setenv("AIRFLOW__TRACES__OTEL_ON", "False")
    new_job(traceparent=TRACEPARENT).send_message(Exit(code=0))
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)
