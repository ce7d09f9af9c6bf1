# SPDX-License-Identifier: Apache-2.0
"""RemoteActionOperator: launches an operation of another deployment, and follows it to its end."""

from __future__ import annotations

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
from airflow_asyncaction.hooks.remote_connection import DeploymentKind
from airflow_asyncaction.hooks.remote_models import Position, RemoteAction, Watch
from airflow_asyncaction.operators.base import Seconds, as_duration, time_left
from airflow_asyncaction.operators.task_exceptions import build_exception
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.tasks import RESULTS_CHANGED
from airflow_asyncaction.triggers.remote import RemoteActionTrigger
from airflow_asyncaction.triggers.remote_follower import RemoteFollower

_STATE_KEY = "asyncaction.remote"
# Airflow kills a task process 5 s after it sends SIGTERM.
_KILLED_TASK_PATIENCE = timedelta(seconds=3.5)
_STOP_PATIENCE = timedelta(seconds=15)
_RESULTS_PATIENCE = timedelta(minutes=10)


class RemoteActionOperator(BaseOperator):
    """Launch an operation of another deployment, and end as its action ends.

    Purpose: a Dag step that another Airflow (or webda server) executes. Its results become this task's
    results, its errors are raised like those of local actions, and its progress and log appear in the task
    log.

    How it works: the launch has an idempotency key that belongs to this try. A process that resumes a try
    continues with the same action. A new try stops the action of an earlier one, and launches another. If the
    operation's task is retried there, as a new action, the task follows that one. While the task is deferred,
    it costs one small request per poll.

    What it does not do: wait for an operation of a webda server, which does not return the launched action.

    :param operation: its id in the other deployment (templated)
    :param arguments: a JSON-serializable object that matches the operation's schema (templated)
    :param asyncaction_conn_id: a connection of type ``asyncaction`` (templated)
    :param schedule: when to run it: an aware time, ISO 8601 text, or ms since 1970; default: at once
        (templated)
    :param deferrable: default: ``[operators] default_deferrable``
    :param defer_after: how long the worker waits before it defers the task; default: ``[asyncaction]
        defer_after``
    :param poll_interval: how often to poll the action; default: ``[asyncaction] poll_interval``
    :param wait_for_completion: if ``False``, the task returns the action's id once it is launched
    :param copies_logs: whether to copy the action's log to the task log
    :param stop_on_kill: whether to stop the action when the task is killed or its timeout expires
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
        """Launch the operation. Return its results, or raise an exception unless it ended as SUCCESS."""
        hook = AsyncActionHook(self.asyncaction_conn_id)
        if self.wait_for_completion and hook.kind is DeploymentKind.WEBDA:
            raise ValueError(
                "A webda server does not return the launched action, so the task cannot wait for it. Set"
                " wait_for_completion=False"
            )
        key = self._idempotency_key(context)
        self._stop_earlier(hook, context, key)
        action = hook.launch(self.operation, self.arguments, schedule=self.schedule, idempotency_key=key)
        context["ti"].xcom_push(key="action_id", value=action.uuid)
        self.log.info(
            "Launched action %s of operation %s. Its state is %s.",
            action.uuid or "(unknown id)",
            self.operation,
            action.state,
        )
        if not self.wait_for_completion:
            return action.uuid or None
        self._remember(context, action.uuid)
        defers = self.deferrable and not is_in_process()
        return self._follow_to_end(hook, Watch(action_id=action.uuid), context, defers=defers)

    def resume(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Resume after the trigger fired: return the action's results, or raise its error."""
        hook = AsyncActionHook(self.asyncaction_conn_id)
        seen = Watch(action_id=event["action_id"], position=Position(line=event["after_line"]))
        return self._follow_to_end(hook, seen, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Resume after a deferral, even if the trigger failed: the action continues.

        If ``execution_timeout`` expired, stop the action. Otherwise the worker follows it in place of the
        trigger.
        """
        if next_method != TRIGGER_FAIL_REPR:
            return super().resume_execution(next_method, next_kwargs, context)
        failure = next_kwargs or {}
        hook = AsyncActionHook(self.asyncaction_conn_id)
        stored = context["task_state_store"].get(_STATE_KEY)
        if failure.get("error") == TriggerFailureReason.TRIGGER_TIMEOUT or not stored:
            if stored and self.stop_on_kill:
                self._stop(hook, stored["actionId"], _STOP_PATIENCE)
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning(
            "The trigger failed. The worker follows the action instead.\n%s",
            "".join(failure.get("traceback") or ()),
        )
        return self._follow_to_end(hook, Watch(action_id=stored["actionId"]), context)

    def on_kill(self) -> None:
        """Stop the action, because Airflow is about to kill this process. Runs in a signal handler."""
        stopping, self._stopping = self._stopping, None
        if stopping is not None:
            self._is_killed = True
            arguments = (stopping, self._watch.action_id, _KILLED_TASK_PATIENCE)
            threading.Thread(target=self._stop, args=arguments, name="asyncaction-kill").start()

    def _follow_to_end(
        self, hook: AsyncActionHook, watch: Watch, context: Any, *, defers: bool = False
    ) -> Any:
        """Follow an action, and its retries, until the end or until this task is deferred."""
        self._watch = watch
        # The clone has read its connection: a signal handler cannot read it from Airflow.
        self._stopping = hook.clone() if self.stop_on_kill else None
        try:
            is_over = self._follow(hook, context, defers=defers)
        except BaseException:  # Airflow's execution_timeout, or an error of the other deployment
            stopping, self._stopping = self._stopping, None
            if stopping is not None:
                self._stop(hook, self._watch.action_id, _STOP_PATIENCE)
            raise
        self._stopping = None
        if not is_over:
            self._defer_to_trigger(context)
        action = hook.clone(patience=_RESULTS_PATIENCE).get(self._watch.action_id)
        context["task_state_store"].delete(_STATE_KEY)
        self.log.info("Action %s ended as %s.", action.uuid, action.state)
        results = self._get_results(action)
        if results is not action.results:
            self.log.warning(RESULTS_CHANGED)
        return results

    def _follow(self, hook: AsyncActionHook, context: Any, *, defers: bool) -> bool:
        """Poll until the end, or until it is time to defer. Return whether the end was reached."""
        defer_after = settings.load().defer_after if self.defer_after is None else self.defer_after
        defer_at = time.monotonic() + defer_after.total_seconds()
        follower = RemoteFollower(
            self.log,
            self._watch,
            poll_interval_seconds=self._interval_seconds,
            copies_logs=self.copies_logs,
        )
        while True:
            try:
                result = hook.poll(follower.watch)
            except ServerError as error:
                pause = follower.on_error(error)
                if pause is None:
                    raise
            else:
                pause = follower.on_result(result)
                self._watch = follower.watch
                if follower.is_done:
                    return True
                if result.next_attempt is not None:
                    self._remember(context, result.next_attempt)
                elif result.is_idle:
                    defer_at = 0.0
            if defers and time.monotonic() >= defer_at:
                return False
            time.sleep(pause)

    def _defer_to_trigger(self, context: Any) -> None:
        watch = self._watch
        self.log.info("Deferring the task. A trigger follows action %s.", watch.action_id)
        trigger = RemoteActionTrigger(
            asyncaction_conn_id=self.asyncaction_conn_id,
            action_id=watch.action_id,
            poll_interval_seconds=self._interval_seconds,
            after_line=watch.position.line,
            copies_logs=self.copies_logs,
            stop_on_kill=self.stop_on_kill,
        )
        self.defer(trigger=trigger, method_name="resume", timeout=time_left(self.execution_timeout, context))

    def _idempotency_key(self, context: Any) -> str:
        """Return the idempotency key of this try's launch."""
        return str(uuid.uuid5(uuid.UUID(str(context["ti"].id)), self.operation))

    def _remember(self, context: Any, action_id: str) -> None:
        context["task_state_store"].set(
            _STATE_KEY, {"actionId": action_id, "key": self._idempotency_key(context)}
        )

    def _stop_earlier(self, hook: AsyncActionHook, context: Any, key: str) -> None:
        """Stop the action of an earlier try, whose worker died."""
        stored = context["task_state_store"].get(_STATE_KEY)
        if isinstance(stored, Mapping) and stored.get("key") != key and self.stop_on_kill:
            self.log.info("Stopping action %s of an earlier try.", stored["actionId"])
            self._stop(hook, stored["actionId"], _STOP_PATIENCE)

    def _stop(self, hook: AsyncActionHook, action_id: str, patience: timedelta) -> None:
        try:
            hook.clone(patience=patience).stop(action_id)
        except ServerError as error:
            self.log.warning("Action %s was not stopped: %s", action_id, error)
        else:
            self.log.info("Sent a stop request to action %s.", action_id)

    def _get_results(self, action: RemoteAction) -> Any:
        """Return the results of an action that is done, or raise its error.

        :raises ActionEnded: the action did not end as SUCCESS. ``ActionSkipped`` skips this task as well.
            ``StopRequested`` fails it without a retry: a user stopped the action in the other deployment
        :raises ServerError: the connection's user may not read its results
        """
        if action.state is State.SUCCESS:
            if action.fields.get("canSeeResults") is False and action.fields.get("hasResults"):
                raise ServerError(
                    f"The connection's user may not read the results of action {action.uuid}. Grant it access"
                    " to XComs there",
                    status=403,
                    code="forbidden",
                )
            return strict_json.to_xcom(action.results)
        # An action that this task stopped, because it is being killed, may be retried.
        is_stop_requested = action.stop_reason == StopReason.REQUESTED and not self._is_killed
        raise build_exception(action.uuid, action, is_stop_requested=is_stop_requested)

    @property
    def _interval_seconds(self) -> float:
        interval = settings.load().poll_interval if self.poll_interval is None else self.poll_interval
        return interval.total_seconds()
