# SPDX-License-Identifier: Apache-2.0
"""Launch an operation of another deployment, and end with it."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from airflow_asyncaction import settings
from airflow_asyncaction.airflow_internals.worker.operators import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow_asyncaction.airflow_internals.worker.task_process import is_in_process
from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.async_action import AsyncActionHook
from airflow_asyncaction.hooks.remote_access import Kind
from airflow_asyncaction.hooks.remote_models import Position, RemoteAction, Watch
from airflow_asyncaction.operators.base import Seconds, as_duration
from airflow_asyncaction.operators.deferral import time_left
from airflow_asyncaction.operators.task_exceptions import build_exception
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.tasks import RESULTS_CHANGED
from airflow_asyncaction.triggers.remote import RemoteActionTrigger, RemoteLog

_STATE_KEY = "asyncaction.remote"
# Airflow kills a task process 5 s after it told it to end.
_KILLED_TASK_PATIENCE = timedelta(seconds=3.5)
_STOP_PATIENCE = timedelta(seconds=15)


class RemoteActionOperator(BaseOperator):
    """Launch an operation of another deployment, and end as its action ends.

    Purpose: a step of a Dag that another Airflow (or webda server) carries out: its results are this task's,
    its errors are raised as those of actions here, its progress and log are in the task log.

    How it works: the launch has a key that belongs to this try, so a process that takes a try over goes on
    with the same action; a new try stops what an earlier one has left running, and launches anew. If the
    operation's task there is tried again, which is an action of its own, it goes on with that. Deferred, one
    small request for each look is all that it costs.

    What it does not do: wait for an operation of a webda server, which does not tell what it launched.

    :param operation: its id there (templated)
    :param arguments: JSON-able object, as the operation's schema wants it (templated)
    :param asyncaction_conn_id: a connection of type ``asyncaction`` (templated)
    :param schedule: when it is to run: an aware time, ISO 8601 text, or ms since 1970; at once unless given
        (templated)
    :param deferrable: ``[operators] default_deferrable`` unless given
    :param defer_after: how long the worker waits before it defers; ``[asyncaction] defer_after`` unless given
    :param poll_interval: between two looks; ``[asyncaction] poll_interval`` unless given
    :param wait_for_completion: if not, the task succeeds once the action is launched, and returns its id
    :param copies_logs: whether the action's log is copied into the task log
    :param stop_on_kill: whether the action is stopped when the task is killed, or runs out of time
    """

    template_fields: Sequence[str] = ("operation", "arguments", "asyncaction_conn_id", "schedule")
    template_fields_renderers: ClassVar[dict[str, str]] = {"arguments": "json"}
    ui_color = "#e4ecf0"

    def __init__(
        self,
        *,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        asyncaction_conn_id: str = AsyncActionHook.default_conn_name,
        schedule: datetime | int | str | None = None,
        deferrable: bool | None = None,
        defer_after: Seconds | None = None,
        poll_interval: Seconds | None = None,
        wait_for_completion: bool = True,
        copies_logs: bool = True,
        stop_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation = operation
        self.arguments = arguments
        self.asyncaction_conn_id = asyncaction_conn_id
        self.schedule = schedule
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False)
            if deferrable is None
            else deferrable
        )
        self.defer_after = as_duration("defer_after", defer_after, may_be_zero=True)
        self.poll_interval = as_duration("poll_interval", poll_interval)
        self.wait_for_completion = wait_for_completion
        self.copies_logs = copies_logs
        self.stop_on_kill = stop_on_kill
        self._stopping: AsyncActionHook | None = None
        self._watch = Watch(action_id="")
        self._is_killed = False

    def execute(self, context: Any) -> Any:
        """Launch the operation; its results are returned, and any other end than SUCCESS is raised."""
        hook = AsyncActionHook(self.asyncaction_conn_id)
        if self.wait_for_completion and hook.kind is Kind.WEBDA:
            raise ValueError("A webda server does not tell what it has launched: wait_for_completion=False")
        key = self._key(context)
        self._stop_left(hook, context, key)
        action = hook.launch(self.operation, self.arguments, schedule=self.schedule, idempotency_key=key)
        context["ti"].xcom_push(key="action_id", value=action.uuid)
        self.log.info("Action %s of operation %s is %s", action.uuid or "?", self.operation, action.state)
        if not self.wait_for_completion:
            return action.uuid or None
        self._remember(context, action.uuid)
        defers = self.deferrable and not is_in_process()
        return self._see_through(hook, Watch(action_id=action.uuid), context, defers=defers)

    def resume(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Go on where the task was deferred: take the action's end."""
        hook = AsyncActionHook(self.asyncaction_conn_id)
        seen = Watch(action_id=event["action_id"], position=Position(line=event["after_line"]))
        return self._see_through(hook, seen, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Go on after a deferral, also after one that failed: the action goes on.

        It is stopped if ``execution_timeout`` is over; else the worker watches it in the trigger's place.
        """
        if next_method != TRIGGER_FAIL_REPR:
            return super().resume_execution(next_method, next_kwargs, context)
        failure = next_kwargs or {}
        hook = AsyncActionHook(self.asyncaction_conn_id)
        left = context["task_state_store"].get(_STATE_KEY)
        if failure.get("error") == TriggerFailureReason.TRIGGER_TIMEOUT or not left:
            if left and self.stop_on_kill:
                self._stop(hook, left["actionId"], _STOP_PATIENCE)
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("The trigger failed: %s", "".join(failure.get("traceback") or ()))
        return self._see_through(hook, Watch(action_id=left["actionId"]), context)

    def on_kill(self) -> None:
        """Stop the action: Airflow is about to kill this process. Called from a signal handler."""
        stopping, self._stopping = self._stopping, None
        if stopping is not None:
            self._is_killed = True
            arguments = (stopping, self._watch.action_id, _KILLED_TASK_PATIENCE)
            threading.Thread(target=self._stop, args=arguments, name="asyncaction-kill").start()

    def _see_through(self, hook: AsyncActionHook, watch: Watch, context: Any, *, defers: bool = False) -> Any:
        """Follow an action, and the tries after it, to the end, or until this task is deferred."""
        self._watch = watch
        # The clone has read its connection: a signal handler cannot ask Airflow for it.
        self._stopping = hook.clone() if self.stop_on_kill else None
        try:
            is_over = self._follow(hook, context, defers=defers)
        except BaseException:  # Airflow's execution_timeout, or the other deployment refuses
            stopping, self._stopping = self._stopping, None
            if stopping is not None:
                self._stop(hook, self._watch.action_id, _STOP_PATIENCE)
            raise
        self._stopping = None
        if not is_over:
            self._hand_over(context)
        action = hook.clone(patience=timedelta(minutes=10)).get(self._watch.action_id)
        context["task_state_store"].delete(_STATE_KEY)
        self.log.info("Action %s ended as %s", action.uuid, action.state)
        results = results_of(action, stopped_by_us=self._is_killed)
        if results is not action.results:
            self.log.warning(RESULTS_CHANGED)
        return results

    def _follow(self, hook: AsyncActionHook, context: Any, *, defers: bool) -> bool:
        """Look until the end, or until it is time to defer; return whether nothing more is to come."""
        defer_after = settings.load().defer_after if self.defer_after is None else self.defer_after
        let_go_at = time.monotonic() + defer_after.total_seconds()
        shown = RemoteLog(self.log, copies_logs=self.copies_logs)
        while True:
            has_more = False
            try:
                look = hook.look(self._watch.action_id, self._watch.position)
            except ServerError as error:
                if not shown.may_pass(error):
                    raise
            else:
                shown.show(look, after_line=self._watch.position.line)
                self._watch, has_more = self._watch.after(look), look.has_more
                if look.is_last:
                    return True
                if look.next_attempt is not None:
                    self._remember(context, look.next_attempt)
                elif look.is_whole or (look.action is not None and look.action.state is State.SCHEDULED):
                    let_go_at = 0.0  # nothing is to be seen for a while
            if defers and time.monotonic() >= let_go_at:
                return False
            if not has_more:
                time.sleep(self._interval_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    def _hand_over(self, context: Any) -> None:
        watch = self._watch
        self.log.info("The task is deferred: a trigger watches action %s", watch.action_id)
        trigger = RemoteActionTrigger(
            asyncaction_conn_id=self.asyncaction_conn_id,
            action_id=watch.action_id,
            poll_interval_seconds=self._interval_seconds,
            after_line=watch.position.line,
            copies_logs=self.copies_logs,
            stop_on_kill=self.stop_on_kill,
        )
        self.defer(trigger=trigger, method_name="resume", timeout=time_left(self.execution_timeout, context))

    def _key(self, context: Any) -> str:
        """Return what makes a launch of this try unique."""
        return str(uuid.uuid5(uuid.UUID(str(context["ti"].id)), self.operation))

    def _remember(self, context: Any, action_id: str) -> None:
        context["task_state_store"].set(_STATE_KEY, {"actionId": action_id, "key": self._key(context)})

    def _stop_left(self, hook: AsyncActionHook, context: Any, key: str) -> None:
        """Stop what an earlier try has left running, since its worker has died."""
        left = context["task_state_store"].get(_STATE_KEY)
        if isinstance(left, Mapping) and left.get("key") != key and self.stop_on_kill:
            self.log.info("Action %s of an earlier try is stopped, if it still runs", left["actionId"])
            self._stop(hook, left["actionId"], _STOP_PATIENCE)

    def _stop(self, hook: AsyncActionHook, action_id: str, patience: timedelta) -> None:
        try:
            hook.clone(patience=patience).stop(action_id)
        except ServerError as error:
            self.log.warning("Action %s was not stopped: %s", action_id, error)
        else:
            self.log.info("Action %s was asked to stop", action_id)

    @property
    def _interval_seconds(self) -> float:
        interval = settings.load().poll_interval if self.poll_interval is None else self.poll_interval
        return interval.total_seconds()


def results_of(action: RemoteAction, *, stopped_by_us: bool = False) -> Any:
    """Return the results of an action that is done, or raise what it ended with.

    :param stopped_by_us: whether this task has asked it to stop, since it was killed: that may be retried
    :raises ActionEnded: it ended otherwise than in SUCCESS; ``ActionSkipped`` skips this task as well, and
        ``StopRequested``, since somebody there has asked for it to stop, fails it without a retry
    :raises ServerError: it has results that the connection's user may not see
    """
    if action.state is State.SUCCESS:
        if action.fields.get("canSeeResults") is False and action.fields.get("hasResults"):
            message = "The connection's user may not see results there: that needs the right to read XComs"
            raise ServerError(message, status=403, code="forbidden")
        return strict_json.as_xcom(action.results)
    raise build_exception(
        action.uuid,
        action.state,
        action.error_name,
        action.error_message,
        is_stop_requested=action.stop_reason == StopReason.REQUESTED and not stopped_by_us,
    )
