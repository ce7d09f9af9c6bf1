# SPDX-License-Identifier: Apache-2.0
"""Pod API: requests to the Kubernetes API, against a real HTTP server with scripted responses."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kubernetes import client as k8s

from airflow_asyncaction.runners.pods.api import PodApi, RequestAbandoned, ResponseStream
from airflow_asyncaction.runners.pods.api_requests import ClusterRefused, ClusterUnavailable, PodRequests
from airflow_asyncaction.runners.pods.container_logs import LogThread
from airflow_asyncaction.runners.pods.log import LogReader
from airflow_asyncaction.runners.pods.watch import PodWatchThread

WEBHOOK = 'Internal error occurred: failed calling webhook "w.example": Post "https://a/": deadline exceeded'
MINUTE = timedelta(minutes=1)
READ = PodRequests("jobs").read_pod("p")


@contextmanager
def answering(*answers: tuple[int, str]) -> Iterator[tuple[k8s.CoreV1Api, list[str]]]:
    """Serve these responses in turn. Yield a client and the requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, said = answers[len(asked)]
            asked.append(self.path)
            body = json.dumps({"kind": "Status", "message": said}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Leave the output to the test."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configuration = k8s.Configuration()
        configuration.host = f"http://127.0.0.1:{server.server_port}"
        configuration.retries = False
        with k8s.ApiClient(configuration) as client:
            yield k8s.CoreV1Api(client), asked
        server.shutdown()


def test_each_retry_is_a_line_that_says_why_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with answering((500, WEBHOOK), (503, "starting"), (200, "here")) as (client, asked):
        assert PodApi(client).send(READ, patience=MINUTE)["message"] == "here"
    assert len(asked) == 3
    first, second = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert first.startswith(f"The Kubernetes API returned 500: {WEBHOOK}")
    assert "A webhook of the cluster does not answer" in first
    assert "Retrying in 0.5 s, for at most" in first
    assert second.startswith("The Kubernetes API returned 503: starting. Retrying in 1.0 s")


@pytest.mark.parametrize(
    ("patience", "is_abandoned", "kind"),
    [(timedelta(0), lambda: False, ClusterUnavailable), (MINUTE, lambda: True, RequestAbandoned)],
)
def test_what_is_not_tried_again_is_said_once(
    caplog: pytest.LogCaptureFixture,
    patience: timedelta,
    is_abandoned: Callable[[], bool],
    kind: type[Exception],
) -> None:
    with (
        answering((500, WEBHOOK)) as (client, asked),
        pytest.raises(kind, match="A webhook of the cluster does not answer"),
    ):
        PodApi(client, is_abandoned).send(READ, patience=patience)
    assert len(asked) == 1
    assert not caplog.records


def test_a_refused_log_or_watch_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    user = 'User "a" cannot'
    said = f'pods "p" is forbidden: {user} get resource "pods/log" in API group "" in the namespace "jobs"'
    with answering(*[(403, said)] * 100) as (client, asked):
        log = LogThread(partial(open_log, PodApi(client)), LogReader(), lambda _: None)
        log.start()
        _wait_for(lambda: len(asked) >= 3)
        log.detach()
    assert _warnings(caplog, "The pod's log cannot be read now") == 1
    assert '"resources": ["pods/log"], "verbs": ["get"]' in caplog.text
    with answering(*[(403, said.replace("pods/log", "pods"))] * 100) as (client, asked):
        events = PodWatchThread(PodApi(client))
        events.start({"metadata": {"name": "p", "namespace": "jobs", "uid": "u"}}, "1")
        _wait_for(lambda: len(asked) >= 3)
        events.close()
    assert _warnings(caplog, "Pod p cannot be watched now") == 1


def open_log(api: PodApi, *, follow: bool, since_seconds: int | None = None) -> ResponseStream:
    request = PodRequests("jobs").read_log("p", container="base", follow=follow, since_seconds=since_seconds)
    return api.open_stream(request)


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _warnings(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def test_a_refusal_is_not_tried_again_and_has_advice() -> None:
    said = (
        'pods "p" is forbidden: User "a" cannot get resource "pods" in API group "" in the namespace "jobs"'
    )
    with answering((403, said)) as (client, asked), pytest.raises(ClusterRefused) as caught:
        PodApi(client).send(READ, patience=MINUTE)
    assert len(asked) == 1
    assert "this permission in the namespace jobs" in str(caught.value)
    assert caught.value.status == 403
