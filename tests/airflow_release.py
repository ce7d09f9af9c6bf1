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

XCOM_TABLE = "xcom_v2" if HAS_REGIONS else "xcom"
RENDERED_TABLE = "rtif_v2" if HAS_REGIONS else "rendered_task_instance_fields"
"""Table of the rendered template fields."""

STATES_OF_DAG = (
    "SELECT task_id, region_index, state FROM task_instance WHERE dag_id = :dag_id AND working_set"
    if HAS_REGIONS
    else "SELECT task_id, map_index, state FROM task_instance WHERE dag_id = :dag_id"
)
"""Query for task_id, map index and state of the task instances of a Dag."""

XCOMS_OF_DAG = (
    "SELECT task_id, region_index, key, value FROM xcom_v2"
    " JOIN task_instance AS task ON task.id = xcom_v2.task_instance_id"
    " WHERE dag_id = :dag_id AND working_set"
    if HAS_REGIONS
    else "SELECT task_id, map_index, key, value FROM xcom WHERE dag_id = :dag_id"
)
"""Query for task_id, map index, key and value of the XComs of a Dag."""
