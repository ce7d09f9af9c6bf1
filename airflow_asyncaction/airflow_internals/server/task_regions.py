# SPDX-License-Identifier: Apache-2.0
"""Task regions: map index and loop iteration of a task instance in Airflow 3.4, as SQL expressions.

Uses: ``airflow.models.dynamic_region`` (``DynamicRegion``, ``SENTINEL_REGION_ID``),
``airflow.models.task_coordinates`` (``mapped_region_expression``, ``public_map_index_expression``).

Checked with Airflow 3.4.0b2. Airflow 3.3 has no regions, and nothing imports this module there.

A region is one expansion of a mapped task, or one run of a loop task group. A task instance has the index
*in* its region: the map index if the region expands the task, else the iteration of the loop. A mapped task
in a loop has a region for each iteration. Task instances outside all regions, and those that ran before an
upgrade from Airflow 3.3, are in the sentinel region, where the index is the map index or -1.
"""

from __future__ import annotations

from typing import Any, cast

from airflow.models.dynamic_region import SENTINEL_REGION_ID, DynamicRegion
from airflow.models.task_coordinates import mapped_region_expression, public_map_index_expression
from sqlalchemy import ColumnElement, Table, case, func, select

_regions = cast("Table", DynamicRegion.__table__).c


def map_index(task_instances: Table) -> ColumnElement[int]:
    """Return the map index that users see: -1 for a task that is not mapped."""
    return cast("ColumnElement[int]", public_map_index_expression(task_instances))


def iteration(task_instances: Table) -> ColumnElement[int]:
    """Return the iteration of the loop that a task instance is in, from 0; -1 outside loops."""
    columns = task_instances.c
    iteration_of_expansion: Any = (
        select(_regions.parent_region_index)
        .where(_regions.id == columns.region_id)
        .correlate(task_instances)
        .scalar_subquery()
    )
    return case(
        (columns.region_id == SENTINEL_REGION_ID, -1),
        (mapped_region_expression(task_instances), func.coalesce(iteration_of_expansion, -1)),
        else_=columns.region_index,
    )
