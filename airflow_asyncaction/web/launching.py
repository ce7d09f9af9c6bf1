# SPDX-License-Identifier: Apache-2.0
"""Launching and stopping, for users: our row says what is asked for, Airflow's Dag run makes it happen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Request

from airflow_asyncaction.exceptions import StoreUnavailable, UserRefused
from airflow_asyncaction.json_schema.inputs import validate_input
from airflow_asyncaction.store import launching
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.launching import Launch
from airflow_asyncaction.store.listing import ActionRecord
from airflow_asyncaction.store.operations import Operation, find_operations
from airflow_asyncaction.web.airflow_api import create_run, fail_run, fail_task
from airflow_asyncaction.web.permissions import User
from airflow_asyncaction.web.query import parse_idempotency_key, parse_time

log = logging.getLogger(__name__)


def launch(
    actions: Actions, request: Request, user: User, operation_id: str, read: Callable[[], dict[str, Any]]
) -> ActionRecord:
    """Launch an operation, at once or at the time of ``?schedule=``; return its action.

    :param read: reads its input, once they are known to be permitted to launch it
    :raises UserRefused: there is no such operation, they may not, the input is wrong, or Airflow refuses
    """
    operation = _operation(actions, user, operation_id)
    wanted = Launch(
        operation=operation,
        arguments=validate_input(read(), operation.declaration.input, is_linear=operation.is_linear),
        requested_by=user.name,
        scheduled_at=parse_time(request, "schedule"),
        idempotency_key=parse_idempotency_key(request),
    )
    return launching.launch(actions, wanted, partial(create_run, request))


def stop(actions: Actions, request: Request, user: User, action: ActionRecord) -> ActionRecord:
    """Ask an action's job to stop; one that is not launched yet never will be, a failed one not tried again.

    :raises UserRefused: they may not, or it has ended
    """
    user.check("PUT", action.dag_id, "TASK_INSTANCE")

    def try_to_fail_run(action: ActionRecord) -> None:
        try:
            fail_run(request, action)
        except (UserRefused, StoreUnavailable) as error:
            log.info("The run of stopped action %s goes on, without it: %s", action.id, error)

    fail = partial(fail_task, request)
    return launching.stop(
        actions,
        action,
        requested_by=user.name,
        method=request.method,
        fail_run=try_to_fail_run,
        fail_task=fail,
    )


def _operation(actions: Actions, user: User, operation_id: str) -> Operation:
    found = find_operations(actions, [operation_id])
    if not found or not user.may("GET", operation_id, "RUN"):
        said = f"There is no operation {operation_id[:250]!r}, or it is not yours to see: see GET /async"
        raise UserRefused(said, code="no_such_operation")
    user.check("POST", operation_id, "RUN")
    return found[0]
