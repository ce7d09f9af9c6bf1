# SPDX-License-Identifier: Apache-2.0
"""Make Dags that are operations: from a function, from a type and a JSON Schema, from a file of webda's.

The name is not by chance: Airflow's dag processor reads only files that have "dag" somewhere in them.
"""

from __future__ import annotations

from airflow_asyncaction.dags.operation_dag import async_operation
from airflow_asyncaction.dags.webda import load_operations

__all__ = ["async_operation", "load_operations"]
