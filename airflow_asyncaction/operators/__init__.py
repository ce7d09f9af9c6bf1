# SPDX-License-Identifier: Apache-2.0
"""What Dag authors use."""

from __future__ import annotations

from airflow_asyncaction.operators.local import LocalActionOperator
from airflow_asyncaction.operators.service import ServiceActionOperator

__all__ = ["LocalActionOperator", "ServiceActionOperator"]
