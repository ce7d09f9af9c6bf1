# SPDX-License-Identifier: Apache-2.0
"""Remote hook over real HTTP: what it sends, retries, and never sends."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable
from airflow_asyncaction.hooks import remote_session
from airflow_asyncaction.hooks.async_action import AsyncActionHook, as_unix_ms
from airflow_asyncaction.hooks.remote_api import UNVERIFIED
from airflow_asyncaction.hooks.remote_connection import DeploymentKind, RemoteConnection, origin_of
from airflow_asyncaction.hooks.remote_models import RemoteAction, RemoteLogs, Watch
from airflow_asyncaction.hooks.remote_session import environment_of
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.reports import LogLine
from tests.unit.remote_deployment import (
    CONTENT,
    LOGIN,
    PASSWORD,
    SCHEMA,
    RemoteDeployment,
    certify,
    refused,
)
from tests.unit.task_server import Answer, TaskServer

AWAY = Answer(503, text="away")
DAYS = {"days": ["monday"]}
NewHook = Callable[..., AsyncActionHook]


@pytest.fixture
def remote() -> Iterator[RemoteDeployment]:
    with RemoteDeployment() as remote:
        yield remote


@pytest.fixture
def new_hook(remote: RemoteDeployment, monkeypatch: pytest.MonkeyPatch) -> NewHook:
    def new(**changes: Any) -> AsyncActionHook:
        monkeypatch.setenv("AIRFLOW_CONN_THERE", remote.connection(**changes))
        return AsyncActionHook("there", patience=timedelta(seconds=5))

    return new


@pytest.fixture
def hook(new_hook: NewHook) -> AsyncActionHook:
    return new_hook()


def test_operations_are_listed_with_and_without_their_schemas(hook: AsyncActionHook) -> None:
    assert hook.operations() == ["etl.load"]
    operation = hook.operations(full=True)["etl.load"]
    assert (operation.id, operation.type, operation.input) == ("etl.load", "etl", SCHEMA)
    assert not operation.is_paused


def test_ids_and_line_numbers_are_such_that_events_and_xcoms_can_hold_them() -> None:
    fields = {"uuid": "a\0\ud800", "type": "t", "status": "ERROR", "nextAttempt": "b" * 1000}
    action = RemoteAction.from_json(fields)
    assert (action.uuid, action.next_attempt) == ("a\ufffd?", "b" * 250)
    assert RemoteAction.from_json({**fields, "nextAttempt": None}).next_attempt is None
    logs = RemoteLogs.from_json({"lines": [], "firstLine": 2**70}, after=3)
    assert (logs.first_line, logs.last_line) == (2**31 - 1, 3)


def test_a_launch_answers_the_action_at_once(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    action = hook.launch("etl.load", DAYS)
    assert (action.state, action.is_done, action.type) == (State.QUEUED, False, "etl.load")
    assert action.created_at == datetime(2026, 11, 24, 18, 0, 0, 123_000, tzinfo=UTC)
    assert remote.action().arguments == DAYS
    assert hook.get(action.uuid).fields["arguments"] == DAYS


def test_a_launch_may_be_for_later(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    at = datetime(2027, 1, 1, 5, tzinfo=UTC)
    assert hook.launch("etl.load", DAYS, schedule=at).state is State.SCHEDULED
    assert remote.action().more["scheduledMs"] == str(int(at.timestamp() * 1000))


@pytest.mark.parametrize("schedule", [5000, "5000", "1970-01-01T00:00:05Z", "1970-01-01T01:00:05+01:00"])
def test_a_schedule_is_a_time_or_ms(schedule: Any) -> None:
    assert as_unix_ms(schedule) == 5000


@pytest.mark.parametrize("schedule", ["tomorrow", "", "2027-01-01T05:00:00", datetime(2027, 1, 1)])  # noqa: DTZ001
def test_a_schedule_that_is_no_moment_is_refused(schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"isoformat|needs a time zone"):
        as_unix_ms(schedule)


def test_a_lost_answer_to_a_launch_launches_nothing_twice(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    hook.operations()  # it is signed in
    remote.faults = [None, AWAY, None]
    action = hook.launch("etl.load", DAYS)
    assert remote.action().uuid == action.uuid
    keys = {request.headers["Idempotency-Key"] for request in remote.seen("PUT", "/async/etl.load")}
    assert len(remote.seen("PUT", "/async/etl.load")) == 4
    assert len(keys) == 1


def test_two_launches_are_two_unless_they_have_one_key(hook: AsyncActionHook) -> None:
    first, second = (hook.launch("etl.load", DAYS).uuid for _ in range(2))
    assert first != second
    third, fourth = (hook.launch("etl.load", DAYS, idempotency_key="k").uuid for _ in range(2))
    assert third == fourth
    with pytest.raises(ServerError, match="422 idempotency_key_reused"):
        hook.launch("etl.load", {"days": []}, idempotency_key="k")


def test_a_refusal_says_where_the_mistake_is_and_is_not_sent_again(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    with pytest.raises(ServerError, match=r"400 invalid_input at \$\.days: about invalid_input") as raised:
        hook.launch("etl.load", {})
    assert (raised.value.status, raised.value.code) == (400, "invalid_input")
    with pytest.raises(ServerError, match="404 no_such_operation"):
        hook.launch("etl.unload", {})
    assert len(remote.seen("PUT", "/async/.*")) == 2


def test_an_id_is_quoted(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    with pytest.raises(ServerError, match="404"):
        hook.get("../../auth?x#y")
    assert remote.requests[-1].path == "/af/async/actions/..%2F..%2Fauth%3Fx%23y"


def test_pages_are_fetched_as_they_are_needed(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    launched = [hook.launch("etl.load", DAYS).uuid for _ in range(5)]
    found = hook.list()
    assert next(found).uuid == launched[-1]
    assert len(remote.seen("GET", "/async/actions")) == 1
    assert [action.uuid for action in found] == launched[-2::-1]
    assert len(remote.seen("GET", "/async/actions")) == 3
    remote.actions[launched[0]].status = "ERROR"
    assert [action.uuid for action in hook.list(status=["ERROR", "TIMEOUT"])] == launched[:1]
    query = "since=2026-01-02T03%3A04%3A05.000Z"
    list(hook.list(since=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), map_index=0, type="etl.load"))
    assert query in remote.requests[-1].path
    assert "mapIndex=0" in remote.requests[-1].path


def test_logs_go_on_after_a_line(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    remote.action().say("one", "two")
    remote.action().say("three", level="ERROR", time_ms=5)
    logs = hook.logs(uuid, after=1)
    assert logs.lines == (LogLine("two"), LogLine("three", "ERROR", 5))
    assert (logs.first_line, logs.last_line, logs.has_more) == (2, 3, False)
    assert hook.logs(uuid, after=3).last_line == 3
    remote.action().dropped = 2
    assert hook.logs(uuid).first_line == 3


@pytest.mark.parametrize("time_ms", [-1, 10**20, "now", 1.5])
def test_a_line_with_an_invalid_time_has_no_time(
    hook: AsyncActionHook, remote: RemoteDeployment, time_ms: Any
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    remote.action().say("one", time_ms=time_ms)
    assert hook.logs(uuid).lines[0].time_ms is None


def test_a_poll_returns_changes_and_is_cheap_without_any(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    remote.action().say("one", "two", "three", "four")
    watch = Watch(action_id=uuid)
    first = hook.poll(watch)
    assert ([line.message for line in first.logs.lines], first.logs.has_more) == (
        ["one", "two", "three"],
        True,
    )
    watch = watch.after(first)
    second = hook.poll(watch)
    watch = watch.after(second)
    third = hook.poll(watch)
    assert [line.message for line in second.logs.lines] == ["four"]
    assert third.action is not None
    assert hook.poll(watch.after(third)).action is None
    assert third.position.report == 7
    assert "afterReport=7" in remote.requests[-1].path


def test_waiting_ends_with_the_action_however_that_ends(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    with pytest.raises(TimeoutError, match="is not done after 0:00:00"):
        hook.wait(uuid, timeout=timedelta(seconds=0.1), poll_interval=timedelta(seconds=0.02))
    threading.Timer(0.2, lambda: remote.action().end("ERROR", errorName="Late", results=0)).start()
    action = hook.wait(uuid, poll_interval=timedelta(seconds=0.02))
    assert (action.state, action.error_name, action.results) == (State.ERROR, "Late", 0)


@pytest.mark.parametrize(
    ("status", "error_name", "is_skipped"),
    [("STOPPED", "Skipped", True), ("STOPPED", "Killed", False), ("ERROR", "Skipped", False)],
)
def test_a_skipped_action_is_distinguished_from_a_failed_one(
    hook: AsyncActionHook, remote: RemoteDeployment, status: str, error_name: str, is_skipped: bool
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    remote.action().end(status, errorName=error_name)
    assert hook.wait(uuid).is_skipped is is_skipped


def test_stopping_what_has_ended_is_no_error(hook: AsyncActionHook) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    assert hook.stop(uuid).state is State.STOPPED
    assert hook.stop(uuid).state is State.STOPPED
    with pytest.raises(ServerError, match="no_such_action"):
        hook.stop("nothing")


def test_waiting_goes_on_with_the_next_try_and_reads_no_log_twice(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    first = remote.action()
    first.say("one", "two")
    first.end("ERROR", isFinal=False)
    threading.Timer(0.3, lambda: remote.try_again(first).end(results=2, isFinal=True)).start()
    done = hook.wait(uuid, timeout=timedelta(seconds=20), poll_interval=timedelta(seconds=0.02))
    assert (done.uuid, done.results) == (first.more["nextAttempt"], 2)
    looks = remote.seen("GET", f"/async/actions/{uuid}/changes")
    assert len(looks) > 5
    assert sum("afterLine=0" in look.path for look in looks) == 1
    assert len(remote.seen("GET", "/async/actions/[^/]+")) == 1


def test_waiting_ends_once_no_other_try_follows(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    remote.action().end("ERROR", isFinal=False)
    with pytest.raises(TimeoutError):
        hook.wait(uuid, timeout=timedelta(seconds=0.1), poll_interval=timedelta(seconds=0.02))
    threading.Timer(0.2, lambda: remote.action().end("ERROR", isFinal=True)).start()
    assert hook.wait(uuid, poll_interval=timedelta(seconds=0.02)).state is State.ERROR


def test_stopping_prevents_the_next_try_or_stops_it(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    first = remote.action()
    first.end("ERROR", isFinal=False)
    assert hook.stop(uuid).is_final
    first.more["isFinal"] = False
    second = remote.try_again(first)
    second.end("ERROR", isFinal=False)
    third = remote.try_again(second)
    stopped = hook.stop(uuid)
    assert (stopped.uuid, stopped.state) == (third.uuid, State.STOPPED)
    assert hook.stop(uuid).uuid == third.uuid


@pytest.mark.parametrize("has_sha256", [True, False])
def test_a_content_is_fetched_without_the_token_and_verified(
    hook: AsyncActionHook, remote: RemoteDeployment, tmp_path: Path, has_sha256: bool
) -> None:
    remote.has_sha256 = has_sha256
    uuid = hook.launch("etl.load", DAYS).uuid
    path = tmp_path / "model.bin"
    file = hook.download(uuid, "model", 0, path)
    assert path.read_bytes() == CONTENT
    assert (file.name, file.size_bytes) == ("model.bin", len(CONTENT))
    assert "Authorization" not in remote.seen("GET", "/async/content/signed")[0].headers
    with pytest.raises(ServerError, match="has no file model/1"):
        hook.download(uuid, "model", 1, path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(text="something else"), "does not match its size and digests"),
        (Answer(403, text="no"), "returned 403"),
    ],
)
def test_a_content_that_is_not_the_files_leaves_nothing(
    hook: AsyncActionHook, remote: RemoteDeployment, tmp_path: Path, answer: Answer, said: str
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    with TaskServer([answer]) as elsewhere:
        remote.content_url = elsewhere.url
        with pytest.raises(ServerError, match=said):
            hook.download(uuid, "model", 0, tmp_path / "model.bin")
        assert "Authorization" not in elsewhere.requests[0].headers
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://h:99999/x", "http://h:x/x"])
def test_a_content_must_have_an_http_url(
    hook: AsyncActionHook, remote: RemoteDeployment, tmp_path: Path, place: str
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    remote.content_url = place
    with pytest.raises(ServerError, match="not http:// or https://"):
        hook.download(uuid, "model", 0, tmp_path / "x")


def test_a_content_elsewhere_is_not_trusted_as_the_deployment_is(new_hook: NewHook, tmp_path: Path) -> None:
    path, both = tmp_path / "model.bin", tmp_path / "both.pem"
    mine, other = certify(tmp_path / "a.pem"), certify(tmp_path / "b.pem")
    both.write_bytes(mine.read_bytes() + other.read_bytes())
    with RemoteDeployment(certificate=mine) as there, RemoteDeployment(certificate=other) as elsewhere:
        hook = new_hook(host=there.url, extra={"verify": str(both)})
        uuid = hook.launch("etl.load", DAYS).uuid
        hook.download(uuid, "model", 0, path)
        assert path.read_bytes() == CONTENT
        there.content_url = f"{elsewhere.url}/content/signed"
        with pytest.raises(ServerError, match=f"certificate of {origin_of(elsewhere.url)}.*self-signed"):
            hook.download(uuid, "model", 0, path)
        assert elsewhere.requests == []


def test_an_invalid_certificate_is_reported_immediately(
    new_hook: NewHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certify(tmp_path / "c.pem")
    with RemoteDeployment(certificate=certificate) as there:
        hook = new_hook(host=there.url)
        with pytest.raises(ServerError, match=r"cannot be verified \(self-signed") as raised:
            hook.clone(patience=timedelta(minutes=5)).operations()
        assert raised.value.code == UNVERIFIED
        assert new_hook(host=there.url, extra={"verify": str(certificate)}).operations() == ["etl.load"]
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert hook.operations() == ["etl.load"]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.org/x", "https://a.org:443"),
        ("https://user:pw@a.org:443?q", "https://a.org:443"),
        ("http://a.org", "http://a.org:80"),
        ("http://[::1]:8080/x", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_the_environment_says_who_is_trusted_and_what_the_way_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CURL_CA_BUNDLE", "/curl.pem")
    assert environment_of("https://a.org", True) == ("/curl.pem", None)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/ca.pem")
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", "b.org,10.0.0.0/8")
    assert environment_of("https://a.org", True) == ("/ca.pem", "http://proxy:3128")
    assert environment_of("https://a.org", "/own.pem") == ("/own.pem", "http://proxy:3128")
    assert environment_of("https://www.b.org", False) == (False, None)
    assert environment_of("https://10.1.2.3", False) == (False, None)


def test_threads_that_share_a_token_fetch_one_once_it_is_refused(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    hook.operations()
    remote.tokens.append("another: that one has expired")
    remote.sign_in_seconds = 0.2
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(hook.clone().operations) for _ in range(8)]
    assert [each.result() for each in asked] == [["etl.load"]] * 8
    assert len(remote.seen("POST", "/auth/token")) == 2


def test_one_token_serves_many_requests_and_is_replaced_when_refused(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    for _ in range(3):
        hook.operations()
    assert len(remote.seen("POST", "/auth/token")) == 1
    remote.tokens.append("another: that one has expired")
    hook.clone().operations()
    assert len(remote.seen("POST", "/auth/token")) == 2


def test_a_refused_new_token_is_not_fetched_again_and_again(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    signed_in = Answer(201, {"access_token": "useless"})
    remote.faults = [signed_in, refused(401, "not_signed_in"), signed_in]
    with pytest.raises(ServerError, match="401 not_signed_in"):
        hook.operations()
    assert len(remote.requests) == 4


def test_a_wrong_password_is_reported_immediately(new_hook: NewHook, remote: RemoteDeployment) -> None:
    hook = new_hook(password="wrong")
    with pytest.raises(
        ServerError, match="/af/auth/token returned 401: it refused login and password"
    ) as raised:
        hook.operations()
    assert (raised.value.code, len(remote.requests)) == ("not_signed_in", 1)
    ok, said = hook.test_connection()
    assert (ok, "refused login and password" in said) == (False, True)


def test_a_connection_can_be_tested(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    assert hook.test_connection() == (True, "Operations that the user may launch: 1 (etl.load)")
    remote.is_away = True
    remote.requests.clear()
    assert hook.test_connection()[0] is False
    assert len(remote.requests) == 1


def test_a_configured_token_is_used_unchanged(new_hook: NewHook, remote: RemoteDeployment) -> None:
    remote.tokens.append("given")
    assert new_hook(extra={"token": "given"}).operations() == ["etl.load"]
    with pytest.raises(ServerError, match="401 not_signed_in"):
        new_hook(extra={"token": "other"}).operations()
    assert remote.seen("POST", "/auth/token") == []


def test_an_outage_of_either_route_is_waited_for(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    remote.faults = [AWAY, AWAY]
    assert hook.operations() == ["etl.load"]
    remote.faults = [Answer(429, {"error": "too_many", "message": "wait"}, headers={"Retry-After": "1"})]
    began_at = time.monotonic()
    hook.operations()
    assert time.monotonic() - began_at > 0.9


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504, 507, 599])
def test_an_answer_that_may_pass_is_waited_for(
    hook: AsyncActionHook, remote: RemoteDeployment, tmp_path: Path, status: int
) -> None:
    remote.faults = [Answer(status, text="from a proxy")] * 2
    uuid = hook.launch("etl.load", DAYS).uuid
    with TaskServer([Answer(status), Answer(text=CONTENT.decode())]) as elsewhere:
        remote.content_url = elsewhere.url
        hook.download(uuid, "model", 0, tmp_path / "model.bin")
        assert len(elsewhere.requests) == 2
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert len(remote.actions) == 1


def test_a_content_that_breaks_off_is_fetched_again(
    hook: AsyncActionHook, remote: RemoteDeployment, tmp_path: Path
) -> None:
    uuid = hook.launch("etl.load", DAYS).uuid
    cut = Answer(text=CONTENT.decode()[:5], headers={"Content-Length": str(len(CONTENT))})
    with TaskServer([cut, Answer(text=CONTENT.decode())]) as elsewhere:
        remote.content_url = elsewhere.url
        hook.download(uuid, "model", 0, tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_a_download_that_breaks_off_is_resumed(
    hook: AsyncActionHook, remote: RemoteDeployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_session, "_CHUNK_BYTES", 4)
    uuid = hook.launch("etl.load", DAYS).uuid
    text, size = CONTENT.decode(), len(CONTENT)
    cut = Answer(text=text[:5], headers={"Content-Length": str(size), "ETag": '"v1"'})
    other = Answer(206, text=text[9:], headers={"Content-Range": f"bytes 9-{size - 1}/{size}"})
    rest = Answer(206, text=text[4:], headers={"Content-Range": f"bytes 4-{size - 1}/{size}"})
    with TaskServer([cut, rest]) as elsewhere:
        remote.content_url = elsewhere.url
        hook.download(uuid, "model", 0, tmp_path / "model.bin")
        first, second = elsewhere.requests
    assert "Range" not in first.headers
    assert (second.headers["Range"], second.headers["If-Range"]) == ("bytes=4-", '"v1"')
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    with TaskServer([cut, other, Answer(text=text)]) as elsewhere:
        remote.content_url = elsewhere.url
        hook.download(uuid, "model", 0, tmp_path / "again.bin")
        assert "Range" not in elsewhere.requests[-1].headers
    assert (tmp_path / "again.bin").read_bytes() == CONTENT


def test_a_server_error_that_somebody_must_mend_is_one_at_once(
    hook: AsyncActionHook, remote: RemoteDeployment
) -> None:
    hook.operations()
    remote.faults = [refused(500, "bad_schema")] * 2
    with pytest.raises(ServerError, match="500 bad_schema"):
        hook.launch("etl.load", DAYS)
    assert len(remote.seen("PUT", "/async/etl.load")) == 1


def test_a_deployment_that_is_not_there_is_unreachable(new_hook: NewHook) -> None:
    with RemoteDeployment() as other:
        hook = new_hook(host=other.url).clone(patience=timedelta(seconds=0.2))
    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        hook.operations()


def test_a_redirect_is_not_followed(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    hook.operations()
    with TaskServer([Answer(text="[]")]) as elsewhere:
        remote.faults = [Answer(307, headers={"Location": elsewhere.url})]
        with pytest.raises(ServerError, match="returned 307"):
            hook.operations()
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    "text", ["", "<html>", "[]", "7", '{"status": "RUNNING"}', '{"uuid": 1, "status": "?", "type": ""}']
)
def test_an_answer_that_is_no_action_is_an_error(
    hook: AsyncActionHook, remote: RemoteDeployment, text: str
) -> None:
    hook.operations()
    remote.faults = [Answer(text=text)]
    with pytest.raises(ServerError, match=r"cannot be parsed|without JSON"):
        hook.get("x")


def test_neither_password_nor_token_is_shown(
    new_hook: NewHook,
    remote: RemoteDeployment,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hook = new_hook()
    with caplog.at_level(logging.DEBUG):
        remote.faults = [AWAY]
        hook.operations()
        remote.is_away = True
        with pytest.raises(ServerError) as raised:
            hook.clone(patience=timedelta(0)).operations()
    shown = "".join(traceback.format_exception(raised.value)) + caplog.text + "".join(capsys.readouterr())
    shown += repr(vars(hook)) + repr(hook.session.connection)
    assert "503" in shown
    assert PASSWORD not in shown
    assert remote.tokens[-1] not in shown


def test_a_netrc_is_not_read(
    hook: AsyncActionHook, remote: RemoteDeployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert hook.operations() == ["etl.load"]
    assert [request.headers.get("Authorization") for request in remote.requests] == [
        None,
        f"Bearer {remote.tokens[0]}",
    ]


def test_a_session_keeps_no_cookie(hook: AsyncActionHook, remote: RemoteDeployment) -> None:
    hook.operations()
    remote.faults = [Answer(text="[]", headers={"Set-Cookie": "_token=x; Path=/"})]
    hook.operations()
    hook.operations()
    assert "Cookie" not in remote.requests[-1].headers


def target(**fields: Any) -> RemoteConnection:
    extra = fields.pop("extra", {})
    known = {"host": None, "schema": None, "port": None, "login": None, "password": None}
    return RemoteConnection.from_airflow(SimpleNamespace(**{**known, **fields}), extra)


@pytest.mark.parametrize(
    ("fields", "base_url", "airflow_url"),
    [
        ({"host": "https://a.org/async"}, "https://a.org/async", "https://a.org"),
        ({"host": "https://a.org/af/async/"}, "https://a.org/af/async", "https://a.org/af"),
        ({"host": "https://a.org"}, "https://a.org/async", "https://a.org"),
        ({"host": "a.org"}, "https://a.org/async", "https://a.org"),
        ({"host": "a", "schema": "http", "port": 8080}, "http://a:8080/async", "http://a:8080"),
        ({"host": "a/x/async", "port": 8080}, "https://a:8080/x/async", "https://a:8080/x"),
        ({"host": "http://a:1/async", "port": 2}, "http://a:1/async", "http://a:1"),
        ({"host": "http://[::1]", "port": 2}, "http://[::1]:2/async", "http://[::1]:2"),
        ({"host": "a", "extra": {"kind": "webda"}}, "https://a/async/jobs", "https://a/async"),
        ({"host": "h", "extra": {"airflow_url": "http://b/"}}, "https://h/async", "http://b"),
    ],
)
def test_a_connection_names_the_hook(fields: dict[str, Any], base_url: str, airflow_url: str) -> None:
    made = target(**fields)
    assert (made.base_url, made.airflow_url) == (base_url, airflow_url)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "host is missing"),
        ({"host": "ftp://a"}, "schema is not http"),
        ({"host": "a", "schema": "async"}, "schema is not http"),
        ({"host": "https://user:pw@a.org/async"}, "use login and password"),
        ({"host": "https://a.org/async?x=1"}, "host is not a URL"),
        ({"host": "a", "extra": {"kind": "other"}}, "kind is 'other'"),
        ({"host": "a", "extra": {"timeout": "soon"}}, "timeout is 'soon'"),
        ({"host": "a", "extra": {"timeout": 0}}, "timeout is 0"),
    ],
)
def test_a_connection_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        target(**fields)


@pytest.mark.parametrize(
    ("given", "verify"),
    [
        (None, True),
        (True, True),
        ("true", True),
        ("", True),
        (False, False),
        ("False", False),
        ("/ca", "/ca"),
    ],
)
def test_certificates_are_verified_by_default(given: Any, verify: bool | str) -> None:
    assert target(host="a", extra={"verify": given}).verify == verify


WEBDA_OPERATIONS = {
    "application": {"name": "app", "version": "1"},
    "operations": {"Etl.Load": {"id": "Etl.Load", "input": "EtlInput"}},
    "schemas": {"EtlInput": SCHEMA},
}


@pytest.fixture
def webda(new_hook: NewHook, remote: RemoteDeployment) -> AsyncActionHook:
    """Return a hook to a webda server whose responses ``remote.faults`` determines."""
    return new_hook(host=f"{remote.url}/jobs", extra={"kind": "webda"})


def test_a_webda_server_lists_and_launches_with_basic_authentication(
    webda: AsyncActionHook, remote: RemoteDeployment
) -> None:
    listed = json.dumps(["Etl.Load"])
    remote.faults = [Answer(text=json.dumps(WEBDA_OPERATIONS)), Answer(text=listed), Answer(204), Answer(204)]
    assert webda.kind is DeploymentKind.WEBDA
    assert webda.operations(full=True)["Etl.Load"].input == SCHEMA
    assert webda.operations() == ["Etl.Load"]
    action = webda.launch("Etl.Load", DAYS)
    assert (action.uuid, action.state) == ("", State.QUEUED)
    assert webda.launch("Etl.Load", DAYS, schedule=5000).state is State.SCHEDULED
    full, listing, launch, scheduling = remote.requests
    # @webda/async 3.0.1 answers 404 to a route without its query.
    assert [full.path, listing.path] == ["/af/async/jobs?full=true", "/af/async/jobs?full="]
    pair = base64.b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode()
    assert full.headers["Authorization"] == f"Basic {pair}"
    assert (launch.method, json.loads(launch.body)) == ("PUT", DAYS)
    assert launch.path == "/af/async/jobs/Etl.Load?schedule="
    assert scheduling.path == "/af/async/jobs/Etl.Load?schedule=5000"


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "schema"), (403, "user"), (404, "operation or action exists"), (405, "base URL")],
)
def test_a_refusal_without_a_reason_is_asked_about(
    webda: AsyncActionHook, remote: RemoteDeployment, status: int, said: str
) -> None:
    remote.faults = [Answer(status)]
    with pytest.raises(ServerError, match=f"returned {status}. .*{said}"):
        webda.launch("Etl.Load", DAYS)


def test_a_launch_at_a_webda_server_is_never_sent_again(
    webda: AsyncActionHook, remote: RemoteDeployment
) -> None:
    remote.faults = [AWAY, Answer(204)]
    with pytest.raises(ServerError, match="503"):
        webda.launch("Etl.Load", DAYS)
    assert len(remote.requests) == 1


def test_a_webda_action_can_be_read_where_its_store_is_exposed(
    webda: AsyncActionHook, remote: RemoteDeployment
) -> None:
    shown = {"uuid": "u", "type": "Etl", "status": "SUCCESS", "logs": ["a", "b"], "results": {"rows": 1}}
    remote.faults = [Answer(fields=shown)] * 4
    assert webda.get("u").results == {"rows": 1}
    assert [line.message for line in webda.logs("u", after=1).lines] == ["b"]
    assert webda.wait("u").state is State.SUCCESS
    assert {request.path for request in remote.requests} == {"/af/async/jobs/actions/u"}


def test_what_a_webda_server_has_not_is_said_so(webda: AsyncActionHook, remote: RemoteDeployment) -> None:
    for call in (lambda: webda.stop("u"), lambda: webda.files("u"), lambda: list(webda.list())):
        with pytest.raises(ServerError, match="webda servers do not support") as raised:
            call()
        assert raised.value.code == "not_offered"
    assert remote.requests == []
