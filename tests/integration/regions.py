# SPDX-License-Identifier: Apache-2.0
"""Regions of task instances in Airflow 3.4: where its scheduler puts mapped tasks and those of a loop."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from airflow.models.dynamic_region import DynamicRegion
from sqlalchemy import Engine
from sqlalchemy.orm import Session

LOOP = "loop"


def place(
    engine: Engine, *, dag_id: str, run_id: str, task_id: str, map_index: int, iteration: int | None
) -> dict[str, Any]:
    """Return region_id and region_index of a task instance, after creating the regions that it is in."""
    region: dict[str, Any] = {"region_index": map_index}
    with Session(engine) as session:
        run: dict[str, Any] = {"dag_id": dag_id, "run_id": run_id, "session": session}
        parent: dict[str, Any] = {}
        if iteration is not None:
            loop = DynamicRegion.get_or_create(**run, node_id=LOOP)
            region = {"region_id": _id(session, loop), "region_index": iteration}
            parent = {"parent_region_id": loop.id, "parent_region_index": iteration}
        if map_index >= 0:
            mapped = DynamicRegion.get_or_create(**run, node_id=task_id, **parent)
            region = {"region_id": _id(session, mapped), "region_index": map_index}
        session.commit()
    return region


def _id(session: Session, region: Any) -> UUID:
    session.flush()
    return UUID(str(region.id))
