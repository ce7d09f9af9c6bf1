# SPDX-License-Identifier: Apache-2.0
"""The release of Airflow that the tests run with, and what they must know of its tables."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

RELEASE = Version(version("apache-airflow-core"))
HAS_REGIONS = RELEASE.release >= (3, 4)
"""Mapped tasks and loops live in regions; ``task_instance`` keeps archived tries, and owns XComs."""

INDEX_COLUMN = "region_index" if HAS_REGIONS else "map_index"
"""Column of ``task_instance`` for the map index."""

XCOMS = (
    "(SELECT task.dag_id, task.run_id, task.task_id, task.region_index AS map_index, xcom_v2.key, xcom_v2.value"
    " FROM xcom_v2 JOIN task_instance AS task ON task.id = xcom_v2.task_instance_id) AS xcom"
    if HAS_REGIONS
    else "xcom"
)
"""XComs with the coordinates of their tasks, as the FROM clause of a query."""
