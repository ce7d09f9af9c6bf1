# SPDX-License-Identifier: Apache-2.0
"""Visible actions: find, list and describe actions as far as a user's permissions allow."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, TypeVar

from airflow_asyncaction.exceptions import ActionNotFound, UserRefused
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store import listing
from airflow_asyncaction.store.dag_ids import dag_ids_with_actions
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.filtering import Filter
from airflow_asyncaction.store.listing import ActionRecord, Page
from airflow_asyncaction.web.permissions import User

T = TypeVar("T")


def list_visible_actions(
    database: Database, user: User, wanted: Filter, *, limit: int, before: JobId | None
) -> Page:
    """Return a page of the actions that a user may see.

    If the user may see all of the newest actions, the page costs one query, however many Dags exist.
    Otherwise a second query only selects the Dags that the user may see.
    """

    def page(dag_ids: Collection[str] | None, count: int) -> Page:
        return listing.list_actions(database, wanted, dag_ids=dag_ids, limit=count, before=before)

    # One more than the page has, so that nextCursor does not reveal an action that the user may not see.
    newest = page(None, limit + 1)
    found = {action.dag_id for action in newest.actions}
    if found == user.filter_permitted("GET", "TASK_INSTANCE", found):
        return newest.first(limit)
    candidates = found if wanted.dag_id is not None else dag_ids_with_actions(database)
    return page(user.filter_permitted("GET", "TASK_INSTANCE", candidates), limit)


def find_visible_action(
    database: Database, user: User, uuid: str, entity: str = "TASK_INSTANCE"
) -> ActionRecord:
    """Return an action that a user may see.

    :param entity: name of the ``DagAccessEntity`` that the user must be permitted to read
    :raises UserRefused: the action does not exist, or the user may not see it. Both have the same error.
    """
    found = refuse_if_missing(uuid, lambda: listing.find(database, uuid))
    if not user.may("GET", found.dag_id, "TASK_INSTANCE"):
        raise no_such_action(uuid)
    if entity != "TASK_INSTANCE":
        user.check("GET", found.dag_id, entity)
    return found


def refuse_if_missing(uuid: str, query: Callable[[], T]) -> T:
    """Run a query, and refuse the request if the action does not exist.

    :raises UserRefused: the query raised ``ActionNotFound``
    """
    try:
        return query()
    except ActionNotFound:
        raise no_such_action(uuid) from None


def no_such_action(uuid: str) -> UserRefused:
    """Return the error for an action that does not exist or that the user may not see."""
    message = f"The action {uuid[:50]!r} does not exist, or you may not see it"
    return UserRefused(message, code="no_such_action")


def action_to_json(database: Database, user: User, action: ActionRecord) -> dict[str, Any]:
    """Return all fields of an action that a user may see, and the user's permissions for it."""
    fields = action.to_json(datetime.now(UTC))
    can_see_results = user.may("GET", action.dag_id, "XCOM")
    can_stop = user.may("PUT", action.dag_id, "TASK_INSTANCE")
    if not can_see_results:
        fields["results"] = None
    if not user.may("GET", action.dag_id, "TASK_LOGS"):
        fields = hide_output(fields)
    permissions = {"canSeeResults": can_see_results, "canStop": can_stop}
    return {**fields, **permissions, **outlook_to_json(database, action)}


def outlook_to_json(database: Database, action: ActionRecord) -> dict[str, Any]:
    """Return whether another attempt follows an action."""
    outlook = listing.find_outlook(database, action)
    return {"nextAttempt": outlook.next_attempt, "isFinal": outlook.is_final}


def hide_output(fields: dict[str, Any]) -> dict[str, Any]:
    """Remove the job's output from an action's error message, which may end with lines of it."""
    message = fields["errorMessage"]
    return {**fields, "errorMessage": message and message.partition("\n")[0]}


def may_see_bodies(user: User, dag_id: str) -> bool:
    """Return whether a user may see the content of reports: log lines and results."""
    return user.may("GET", dag_id, "TASK_LOGS") and user.may("GET", dag_id, "XCOM")
