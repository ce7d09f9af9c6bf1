# SPDX-License-Identifier: Apache-2.0
"""Deferred tasks: completes or resumes them from the API server, in place of their trigger.

Uses: ``airflow.models.trigger.Trigger`` (``submit_event``, ``submit_failure``, ``created_date``,
``classpath``), ``airflow.models.taskinstance.TaskInstance``, ``airflow.models.xcom.XComModel``
(``set``; with Airflow 3.4 ``set_for_attempt``), ``airflow.triggers.base`` (``TaskSuccessEvent``),
``airflow.sdk.serde``.

Checked with Airflow 3.3.2 and 3.4.0b2.

``Trigger.submit_event`` acts on every task that is deferred with the trigger. Here, each task has a
trigger row of its own, since the kwargs name its action. ``TaskSuccessEvent`` ends a task without a
worker: Airflow then runs no success callback, and records no asset event.

XComs are written directly: ``TaskSuccessEvent(xcoms=...)`` encodes the values twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import Session


@dataclass(frozen=True)
class DeferredTask:
    """A deferred task instance, locked until the transaction ends.

    :param trigger_id: id of its trigger
    :param deferred_at: creation time of its trigger
    """

    instance: TaskInstance
    trigger_id: int
    deferred_at: datetime


def lock(session: Session, ti_id: str, *, classpath_prefix: str) -> DeferredTask | None:
    """Lock and return a task instance; ``None`` unless it is deferred with a trigger of these classes.

    :param classpath_prefix: beginning of the trigger's class path
    """
    query = select(TaskInstance).where(TaskInstance.id == UUID(ti_id))
    instance = session.scalar(query.with_for_update(of=TaskInstance))
    if instance is None or instance.state != TaskInstanceState.DEFERRED or instance.trigger_id is None:
        return None
    trigger = session.get(Trigger, instance.trigger_id)
    if trigger is None or not trigger.classpath.startswith(classpath_prefix):
        return None
    return DeferredTask(instance, instance.trigger_id, trigger.created_date)


def succeed(session: Session, task: DeferredTask) -> None:
    """End the task as successful, without a worker."""
    Trigger.submit_event(task.trigger_id, TaskSuccessEvent(), session=session)


def resume(session: Session, task: DeferredTask, payload: str) -> None:
    """Resume the task on a worker, as if its trigger had fired.

    :param payload: payload of the trigger event
    """
    Trigger.submit_event(task.trigger_id, TriggerEvent(payload), session=session)


def resume_as_failed(session: Session, task: DeferredTask, message: str) -> None:
    """Resume the task on a worker, as if its trigger had failed.

    :param message: replaces the traceback of the trigger; must end with a line break
    """
    Trigger.submit_failure(task.trigger_id, [message], session=session)


def push_return_value(session: Session, task: DeferredTask, value: Any) -> None:
    """Store the return value of the task, encoded as a worker would.

    :param value: JSON value. Workers deserialize it, so it must not name classes
    """
    from airflow.sdk.serde import serialize

    xcom = {"key": "return_value", "value": serialize(value), "serialize": False, "session": session}
    instance = task.instance
    if hasattr(XComModel, "set_for_attempt"):  # Airflow 3.4
        XComModel.set_for_attempt(task_instance_id=instance.id, **xcom)
        return
    XComModel.set(
        dag_id=instance.dag_id,
        task_id=instance.task_id,
        run_id=instance.run_id,
        map_index=instance.map_index,
        **xcom,
    )
