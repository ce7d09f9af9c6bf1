# SPDX-License-Identifier: Apache-2.0
"""Exceptions of tasks whose action did not succeed. Their Airflow base classes fail or skip the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from airflow_asyncaction.hooks.remote_models import RemoteAction
    from airflow_asyncaction.protocol.tasks import TaskView


class ActionSkipped(Skipped, AirflowSkipException):
    """The action was skipped, and so is its task."""


class StopRequested(ActionStopped, AirflowFailException):
    """A user stopped the action: its task fails and is not retried."""


def build_exception(
    action_id: str, action: TaskView | RemoteAction, *, is_stop_requested: bool
) -> ActionEnded:
    """Return the exception to raise for an action that did not end as SUCCESS.

    :param is_stop_requested: whether a user stopped the action, so that its task must not be retried
    """
    classes = {State.TIMEOUT: ActionTimedOut, State.STOPPED: ActionStopped}
    class_ = error_class(classes.get(action.state, ActionFailed), action.error_name)
    if class_ is Skipped:
        class_ = ActionSkipped
    elif is_stop_requested and issubclass(class_, ActionStopped):
        class_ = StopRequested
    return class_(action_id=action_id, error_name=action.error_name, error_message=action.error_message)
