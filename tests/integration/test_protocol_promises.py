# SPDX-License-Identifier: Apache-2.0
"""Details that PROTOCOL.md promises, over real HTTP: nonces, nulls, repeated announcements, dead URLs."""

from __future__ import annotations

import secrets

import pytest

from airflow_asyncaction.protocol.lifecycle import Abandon
from tests.integration.file_transfers import announce, put_content, upload
from tests.integration.signed_jobs import SignedJob, new_nonce

pytestmark = pytest.mark.integration

SIZE = 1000


def test_a_malformed_report_does_not_use_up_its_nonce(job: SignedJob) -> None:
    nonce = new_nonce()
    assert job.report(nonce=nonce, status="DONE").error == (400, "malformed")
    assert job.report(nonce=nonce, status="RUNNING").status == 200


def test_a_resent_report_returns_the_action_as_it_is_now(job: SignedJob) -> None:
    nonce = new_nonce()
    job.report(nonce=nonce, status="RUNNING")
    job.send_message(Abandon())
    resent = job.report(nonce=nonce, status="RUNNING")
    assert (resent.status, resent.fields["status"]) == (200, "STOPPED")


def test_an_action_can_be_read_after_airflow_ended_it(job: SignedJob) -> None:
    job.send_message(Abandon())
    read = job.send("GET", "/job")
    assert (read.status, read.fields["status"], read.fields["action"]) == (200, "STOPPED", None)


def test_null_is_absence_except_for_values(job: SignedJob) -> None:
    absent = dict.fromkeys(("status", "errorName", "errorMessage", "logs", "agent"))
    assert job.report(**absent).status == 200
    assert job.view().error_name is None
    job.report(results=1, statusDetails=2)
    job.report(results=None, statusDetails=None)
    view = job.view()
    assert (view.results, view.status_details) == ("null", "null")


@pytest.mark.parametrize(("level", "status"), [("x" * 17, 200), (None, 400)])
def test_the_level_of_a_log_line_is_any_string(job: SignedJob, level: str | None, status: int) -> None:
    assert job.report(logs=[{"message": "m", "level": level}]).status == status
    assert [line.level for line in job.view().logs] == (["X" * 16] if status == 200 else [])


@pytest.mark.parametrize("name", ["errorName", "errorMessage"])
def test_long_errors_are_cut(job: SignedJob, name: str) -> None:
    limit = {"errorName": 250, "errorMessage": 16_384}[name]
    assert job.report(status="ERROR", **{name: "x" * (limit + 1)}).fields[name] == "x" * limit


def test_a_byte_order_mark_and_compression_are_refused(job: SignedJob) -> None:
    assert job.send("POST", "/status", b"\xef\xbb\xbf{}").error == (400, "malformed")
    assert job.send("POST", "/status", b"\x1f\x8b").error == (400, "malformed")


def test_the_same_announcement_is_the_same_file(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    first, second = (announce(job, "model", content, name="a").fields for _ in range(2))
    assert (first["index"], second["index"], second["done"]) == (0, 0, False)
    assert put_content(job, second["url"], content).fields["done"] is True
    again = announce(job, "model", content, name="a").fields
    assert again == {"done": True, "index": 0}


@pytest.mark.parametrize(("is_attached", "index"), [(False, 0), (True, 1)])
def test_other_content_of_the_same_name(job: SignedJob, is_attached: bool, index: int) -> None:
    old, new = secrets.token_bytes(SIZE), secrets.token_bytes(SIZE)
    announced = announce(job, "model", old, name="a").fields
    if is_attached:
        put_content(job, announced["url"], old)
    assert upload(job, "model", new, name="a") == index


def test_after_a_mismatch_the_url_is_dead(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    url = announce(job, "model", content).fields["url"]
    assert put_content(job, url, b"0" * SIZE).error == (412, "hash_mismatch")
    assert put_content(job, url, content).error == (404, "no_such_file")
    assert upload(job, "model", content) == 0
