# SPDX-License-Identifier: Apache-2.0
"""``JOB_`` variables: written, parsed and refused."""

from __future__ import annotations

import json

import pytest

from airflow_asyncaction.exceptions import JobInfoError
from airflow_asyncaction.protocol.job_info import MAX_ARGUMENTS_BYTES, NAMES, JobId, JobInfo

INFO = JobInfo(
    job_id=JobId("6f1d9b8e-3c1a-4c57-9a55-0d2f6f2f9c11"),
    secret_key="very-secret",
    hook_url="http://airflow:8080/async",
    arguments='{"a":1}',
    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
)


def test_what_is_written_is_read() -> None:
    environ = INFO.to_environ()
    assert set(environ) == set(NAMES)
    assert JobInfo.from_environ(environ) == INFO


def test_no_variables_is_no_job() -> None:
    assert JobInfo.from_environ({"PATH": "/bin"}) is None


@pytest.mark.parametrize("name", ["JOB_ID", "JOB_SECRET_KEY", "JOB_HOOK"])
def test_a_missing_variable_is_named(name: str) -> None:
    environ = INFO.to_environ()
    del environ[name]
    with pytest.raises(JobInfoError, match=name):
        JobInfo.from_environ(environ)


@pytest.mark.parametrize(("name", "value"), [("JOB_ID", "1"), ("JOB_HOOK", "ftp://x")])
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(JobInfoError, match=name):
        JobInfo.from_environ({**INFO.to_environ(), name: value})


def test_a_job_without_job_signature_is_an_old_one() -> None:
    environ = INFO.to_environ()
    del environ["JOB_SIGNATURE"]
    info = JobInfo.from_environ(environ)
    assert info is not None
    assert info.signature == "v1"


def test_large_arguments_stay_out_of_the_environment() -> None:
    text = json.dumps("x" * MAX_ARGUMENTS_BYTES)
    info = JobInfo(job_id=INFO.job_id, secret_key="s", hook_url=INFO.hook_url, arguments=text)
    assert "JOB_ARGUMENTS" not in info.to_environ()


def test_the_secret_is_not_shown() -> None:
    assert "very-secret" not in repr(INFO)
