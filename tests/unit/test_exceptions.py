# SPDX-License-Identifier: Apache-2.0
"""Exceptions: each named error has a class of that name, for retry rules."""

from __future__ import annotations

import pytest

from airflow_asyncaction import exceptions
from airflow_asyncaction.exceptions import ActionFailed, ActionStopped, ActionTimedOut, error_class


@pytest.mark.parametrize("name", ["OOMKilled", "Evicted", "ImagePull", "PodDeleted", "ExitCode", "NoReport"])
def test_an_error_has_the_class_of_its_name(name: str) -> None:
    assert error_class(ActionFailed, name) is getattr(exceptions, name)


def test_what_happens_to_a_pod_is_a_kind_of_its_own() -> None:
    assert issubclass(error_class(ActionFailed, "OOMKilled"), exceptions.PodFailed)
    assert not issubclass(error_class(ActionFailed, "ExitCode"), exceptions.PodFailed)
    assert error_class(ActionFailed, "PodFailed") is exceptions.PodFailed


@pytest.mark.parametrize("name", ["JobError", "", None, "ActionEnded", "HeartbeatTimeout"])
def test_an_error_of_the_jobs_own_is_a_failure(name: str | None) -> None:
    assert error_class(ActionFailed, name) is ActionFailed


def test_clocks_are_timeouts() -> None:
    assert error_class(ActionTimedOut, "HeartbeatTimeout") is exceptions.HeartbeatTimeout
    assert error_class(ActionStopped, "HeartbeatTimeout") is ActionStopped


def test_the_class_of_an_error_names_what_happened() -> None:
    error = exceptions.OOMKilled(action_id="a", error_name="OOMKilled", error_message="too much")
    assert (str(error), error.error_name, error.action_id) == ("OOMKilled: too much", "OOMKilled", "a")
