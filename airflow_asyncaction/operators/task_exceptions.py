# SPDX-License-Identifier: Apache-2.0
"""Exceptions that end a task as its action ended, combined with those that make Airflow fail or skip it."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_asyncaction.exceptions import (
    ActionEnded,
    ActionFailed,
    ActionStopped,
    ActionTimedOut,
    Skipped,
    error_class,
)
from airflow_asyncaction.protocol.actions import State


class ActionSkipped(Skipped, AirflowSkipException):
    """The action was skipped, and so is its task."""


class StopRequested(ActionStopped, AirflowFailException):
    """Somebody asked the action to stop: its task fails, and is not retried."""


def as_exception(
    action_id: str,
    state: State,
    error_name: str | None,
    error_message: str | None,
    *,
    is_stop_requested: bool = False,
) -> ActionEnded:
    """Return what an action that ended otherwise than in SUCCESS is raised as.

    :param is_stop_requested: whether somebody asked for it to stop, who wants no retry
    """
    kinds = {State.TIMEOUT: ActionTimedOut, State.STOPPED: ActionStopped}
    kind = error_class(kinds.get(state, ActionFailed), error_name)
    if kind is Skipped:
        kind = ActionSkipped
    elif is_stop_requested and issubclass(kind, ActionStopped):
        kind = StopRequested
    return kind(action_id=action_id, error_name=error_name, error_message=error_message)
