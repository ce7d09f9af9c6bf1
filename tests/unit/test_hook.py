# SPDX-License-Identifier: Apache-2.0
"""Hook over real HTTP: retries, corrects its clock, and raises errors with advice."""

from __future__ import annotations

import json
import logging
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk._shared.secrets_masker import redact

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators.attempt import register
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.masking import MAX_VALUES
from airflow_asyncaction.protocol.signing import Content, read_claim, verify
from airflow_asyncaction.protocol.tasks import ActionSpec, TaskCredentials, TaskView
from tests.unit.task_server import Answer, TaskServer

SECRET = "the-secret-of-one-action-alone-0123456789"
TASK_KEY = "the-key-of-its-task-alone-0123456789"
VIEW = TaskView(
    state=State.RUNNING,
    is_done=False,
    verb=None,
    stop_reason=None,
    results=None,
    error_name=None,
    error_message=None,
    status_details=None,
)
SEEN = Answer(fields=VIEW.to_json())
AWAY = Answer(503, {"error": "unavailable", "message": "send it again"})


def new_task() -> TaskCredentials:
    return TaskCredentials(JobId(str(uuid.uuid4())), SECRET)


def test_a_request_is_signed_with_v2_over_its_path_query_and_body() -> None:
    with TaskServer([SEEN]) as server:
        task = new_task()
        assert TaskHook(server.url).read(task, after_line=3) == VIEW
        (request,) = server.requests
    assert request.path == "/async/task/action?after=3"
    claim = read_claim(request.headers)
    now_ms = int(time.time() * 1000)
    content = Content("GET", "/task/action", "after=3", request.body)
    verify(claim, content, secret=SECRET, now_ms=now_ms, max_skew_ms=60_000)


def test_what_must_arrive_is_sent_again_over_an_outage_under_one_nonce() -> None:
    with TaskServer([AWAY, Answer(502, text="<html>"), SEEN]) as server:
        view = TaskHook(server.url).send_message(new_task(), Exit(code=0))
        assert view == VIEW
        nonces = {request.headers["X-Job-Nonce"] for request in server.requests}
        assert (len(server.requests), len(nonces)) == (3, 1)
        assert json.loads(server.requests[-1].body)["kind"] == "exit"


def test_without_patience_an_outage_is_an_error_at_once() -> None:
    with TaskServer([AWAY]) as server:
        with pytest.raises(ServerError, match="503 unavailable: send it again"):
            TaskHook(server.url).read(new_task())
        assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with TaskServer([SEEN]) as server:
        task = new_task()
    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        TaskHook(server.url).read(task, patience=timedelta(seconds=0.3))


def test_a_clock_that_is_off_is_corrected_once() -> None:
    ahead_ms = int(time.time() * 1000) + 3_600_000
    stale = Answer(401, {"error": "stale_time", "message": "set the clock", "serverTime": ahead_ms})
    with TaskServer([stale, SEEN]) as server:
        TaskHook(server.url).read(new_task())
        first, second = (int(request.headers["X-Job-Time"]) for request in server.requests)
    assert second - first > 3_500_000
    with TaskServer([stale]) as server:
        with pytest.raises(ServerError, match="stale_time"):
            TaskHook(server.url).read(new_task())
        assert len(server.requests) == 2


def test_an_action_that_was_replaced_is_superseded() -> None:
    with (
        TaskServer([Answer(410, {"error": "superseded", "message": "stop"})]) as server,
        pytest.raises(Superseded),
    ):
        TaskHook(server.url).read(new_task())


def test_a_refused_registration_says_why() -> None:
    refused = Answer(403, {"error": "not_proven", "message": "it has not committed to this nonce"})
    spec = ActionSpec(type="t", runner="local")
    with (
        TaskServer([refused]) as server,
        pytest.raises(ServerError, match="403 not_proven: it has not committed") as raised,
    ):
        TaskHook(server.url).register("ti", "nonce", spec)
    assert (raised.value.status, raised.value.code) == (403, "not_proven")


def test_a_server_without_the_plugin_is_named_as_such() -> None:
    with (
        TaskServer([Answer(404, text="<html>Not Found</html>")]) as server,
        pytest.raises(ServerError, match="does not load the airflow-asyncaction plugin"),
    ):
        TaskHook(server.url).read(new_task())


def test_a_gateway_is_no_api_server() -> None:
    unknown = Answer(404, {"error": "no_such_route", "message": "Unknown route."})
    message = r"no_such_route: Unknown route\. .* set \[asyncaction\] task_url"
    with TaskServer([unknown]) as server, pytest.raises(ServerError, match=message):
        TaskHook(server.url).read(new_task())


def test_no_error_shows_the_secret() -> None:
    with TaskServer([Answer(401, {"error": "bad_signature", "message": "no"})]) as server:
        task = new_task()
        with pytest.raises(ServerError) as raised:
            TaskHook(server.url).read(task)
    assert SECRET not in str(raised.value) + repr(raised.value) + repr(task)


def test_neither_an_outage_nor_its_warnings_show_the_secret(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with TaskServer([AWAY, SEEN]) as server, caplog.at_level(logging.DEBUG):
        task = new_task()
        TaskHook(server.url).send_message(task, Exit(code=0))
    with pytest.raises(ServerUnreachable) as raised:
        TaskHook(server.url).read(task, patience=timedelta(seconds=0.3))
    shown = "".join(traceback.format_exception(raised.value)) + caplog.text + "".join(capsys.readouterr())
    assert "cannot be reached" in shown
    assert SECRET not in shown


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504, 507, 599])
def test_an_answer_that_may_pass_is_waited_for(status: int) -> None:
    with TaskServer([Answer(status, {"error": "code", "message": "m"}), SEEN]) as server:
        assert TaskHook(server.url).send_message(new_task(), Exit(code=0)) == VIEW
        assert len(server.requests) == 2


def test_a_servers_retry_after_is_respected() -> None:
    busy = Answer(503, {"error": "unavailable", "message": "m"}, headers={"Retry-After": "1"})
    with TaskServer([busy, SEEN]) as server:
        started = time.monotonic()
        assert TaskHook(server.url).send_message(new_task(), Exit(code=0)) == VIEW
        assert time.monotonic() - started >= 1
        assert len(server.requests) == 2


def test_a_page_of_somebody_else_is_waited_for() -> None:
    with TaskServer([Answer(text="<html>Sign in</html>"), SEEN]) as server:
        assert TaskHook(server.url).send_message(new_task(), Exit(code=0)) == VIEW


def test_an_exit_too_large_for_the_server_is_sent_without_its_output() -> None:
    too_large = Answer(413, {"error": "too_large", "message": "make it smaller"})
    with TaskServer([too_large, SEEN]) as server:
        TaskHook(server.url).send_message(
            new_task(), Exit(code=3, message="m" * 9000, tail=["last", "words"])
        )
        words = [json.loads(request.body) for request in server.requests]
    assert [word["tail"] for word in words] == [["last", "words"], []]
    assert [(word["code"], len(word["message"])) for word in words] == [(3, 9000), (3, 200)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413])
def test_a_refusal_is_not_sent_again(status: int) -> None:
    with TaskServer([Answer(status, {"error": "code", "message": "do this"}), SEEN]) as server:
        with pytest.raises(ServerError, match=f"returned {status} code: do this"):
            TaskHook(server.url).send_message(new_task(), Exit(code=0))
        assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [Answer(text="[]"), Answer(text="<html>"), Answer(text="")])
def test_an_answer_that_is_no_object_is_an_error(answer: Answer) -> None:
    with TaskServer([answer]) as server, pytest.raises(ServerError, match="returned 200"):
        TaskHook(server.url).read(new_task())


def test_a_redirect_is_not_followed() -> None:
    with TaskServer([SEEN]) as elsewhere, TaskServer([]) as server:
        server.answers.append(Answer(302, headers={"Location": elsewhere.url}))
        with pytest.raises(ServerError, match="returned 302"):
            TaskHook(server.url).read(new_task())
        assert elsewhere.requests == []


class StateStore:
    """Takes what a task keeps in its state store."""

    def set(self, key: str, value: str, *, retention: timedelta) -> None:
        """Take a value."""


def test_a_registered_task_masks_its_jobs_secret_and_its_own_key() -> None:
    secrets = [uuid.uuid4().hex, uuid.uuid4().hex]
    given = {"actionId": str(uuid.uuid4()), "secretKey": secrets[0], "taskKey": secrets[1]}
    context = {"ti": SimpleNamespace(id=uuid.uuid4()), "task_state_store": StateStore()}
    with TaskServer([Answer(fields={**given, "orchestrator": "here", "wasLaunched": False})]) as server:
        registration = register(TaskHook(server.url), context, ActionSpec(type="t", runner="local"))
    assert [registration.info.secret_key, registration.credentials.secret_key] == secrets
    assert redact("{} and {}".format(*secrets)) == "*** and ***"


def test_registration_returns_the_jobs_credentials() -> None:
    given = {"actionId": str(uuid.uuid4()), "secretKey": SECRET, "taskKey": TASK_KEY, "orchestrator": "here"}
    with TaskServer([Answer(fields={**given, "wasLaunched": False})]) as server:
        spec = ActionSpec(type="t", runner="local", traceparent="00-a-b-01")
        hook = TaskHook(server.url + "/", hook_url="http://gateway/async").clone()
        registration = hook.register("ti", "nonce", spec)
        sent = json.loads(server.requests[0].body)
    assert not registration.was_launched
    assert registration.credentials == TaskCredentials(JobId(given["actionId"]), TASK_KEY)
    assert TASK_KEY not in repr(registration)
    environ = registration.info.to_environ()
    assert TASK_KEY not in environ.values()
    assert environ["JOB_HOOK"] == "http://gateway/async"
    assert (environ["JOB_ID"], environ["JOB_SECRET_KEY"]) == (given["actionId"], SECRET)
    assert (environ["JOB_ORCHESTRATOR"], environ["TRACEPARENT"]) == ("here", "00-a-b-01")
    assert replace(ActionSpec.from_json(sent["spec"]), secrets=()) == spec


def test_a_task_shares_what_airflow_masks_once(mask: Callable[[str], None]) -> None:
    given = {"actionId": str(uuid.uuid4()), "secretKey": SECRET, "taskKey": TASK_KEY, "orchestrator": "here"}
    mask("known before")
    with TaskServer([Answer(fields={**given, "wasLaunched": False}), SEEN]) as server:
        hook = TaskHook(server.url)
        registration = hook.register("ti", "nonce", ActionSpec(type="t", runner="local"))
        mask(SECRET)
        mask(TASK_KEY)
        clone, task = hook.clone(), registration.credentials
        clone.send_message(task, Exit(code=1))
        mask("known later")
        for _ in range(2):
            hook.send_message(task, Exit(code=1, message="known before, known later", tail=("known later",)))
        sent = [(request.path.partition("?")[0], json.loads(request.body)) for request in server.requests]
    assert "known before" in sent[0][1]["spec"]["secrets"]
    paths = [path.removeprefix("/async") for path, _ in sent]
    assert paths == ["/task/register", "/task/message", "/task/secrets", "/task/message", "/task/message"]
    assert sent[2][1] == {"secrets": ["known later"]}
    assert (sent[3][1]["message"], sent[3][1]["tail"]) == ("***, ***", ["***"])


def test_a_word_arrives_though_secrets_could_not_be_shared(mask: Callable[[str], None]) -> None:
    given = {"actionId": str(uuid.uuid4()), "secretKey": SECRET, "taskKey": TASK_KEY, "orchestrator": "here"}
    with TaskServer([Answer(fields={**given, "wasLaunched": False}), AWAY, SEEN]) as server:
        hook = TaskHook(server.url)
        task = hook.register("ti", "nonce", ActionSpec(type="t", runner="local")).credentials
        mask("known later")
        hook.send_message(task, Exit(code=1, message="known later"))
        hook.share_secrets(task)
        hook.share_secrets(task)
        sent = [(request.path.partition("?")[0], request.body) for request in server.requests]
    assert [path.removeprefix("/async/task/") for path, _ in sent[1:]] == ["secrets", "message", "secrets"]
    assert b"known later" not in sent[2][1]


def test_too_many_secrets_are_reported(
    mask: Callable[[list[str]], None],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"actionId": str(uuid.uuid4()), "secretKey": SECRET, "taskKey": TASK_KEY, "orchestrator": "here"}
    mask([f"password {number}" for number in range(MAX_VALUES + 10)])
    with TaskServer([Answer(fields={**given, "wasLaunched": False})]) as server:
        TaskHook(server.url).register("ti", "nonce", ActionSpec(type="t", runner="local"))
        sent = json.loads(server.requests[0].body)
    assert len(sent["spec"]["secrets"]) == MAX_VALUES
    said = caplog.text + "".join(capsys.readouterr())
    assert "there are too many, or they are too long" in said
    assert "password" not in said
