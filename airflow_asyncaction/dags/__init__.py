# SPDX-License-Identifier: Apache-2.0
"""Operation Dags: created from a function, from a type and a JSON Schema, or from a webda operations file.

Importing this package is enough for the Dag processor, which skips files that do not contain "dag".
"""

from __future__ import annotations

from airflow_asyncaction.dags.operation_dag import async_operation
from airflow_asyncaction.dags.webda import load_operations

__all__ = ["async_operation", "load_operations"]
