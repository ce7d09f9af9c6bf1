# SPDX-License-Identifier: Apache-2.0
"""Task state store: reads and deletes values that a running task stored through the Execution API.

Uses: ``airflow.state`` (``TaskScope``, ``get_state_backend``).

Checked with Airflow 3.3.2 and 3.4.0b2.

Only the task itself and users who may edit its task instances can write there. The scope is the coordinates
of the task, and its region in Airflow 3.4, so all its tries share it. A custom ``[workers]
state_store_backend`` stores values where the server cannot read them.
"""

from __future__ import annotations

from typing import Any

from airflow.state import TaskScope, get_state_backend
from sqlalchemy import Connection, Row
from sqlalchemy.orm import Session


def read_value(connection: Connection, task: Row[Any], key: str) -> str | None:
    """Return a stored value as JSON text; ``None`` if it does not exist.

    :param task: as :func:`task_instances.find` returns it
    """
    with Session(bind=connection) as session:  # takes part in the connection's transaction
        return get_state_backend().get(_scope(task), key, session=session)


def delete_value(connection: Connection, task: Row[Any], key: str) -> None:
    """Delete a stored value.

    :param task: as :func:`task_instances.find` returns it
    """
    with Session(bind=connection) as session:
        get_state_backend().delete(_scope(task), key, session=session)
        session.flush()


def _scope(task: Row[Any]) -> TaskScope:
    scope: dict[str, Any] = {"dag_id": task.dag_id, "run_id": task.run_id, "task_id": task.task_id}
    if task.region_id is not None:
        scope["region_id"] = task.region_id
    return TaskScope(**scope, map_index=task.region_index)
