# SPDX-License-Identifier: Apache-2.0
"""Operation Dags: created from a function, from a type and a JSON Schema, or from a webda operations file.

The Dag processor skips files that do not contain "airflow" and "dag": an import of this package has both.
"""

from __future__ import annotations

from airflow_asyncaction.dags.operation_dag import async_operation
from airflow_asyncaction.dags.webda import load_operations

__all__ = ["async_operation", "load_operations"]
