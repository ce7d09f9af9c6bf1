# SPDX-License-Identifier: Apache-2.0
"""Operators for Dag authors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_asyncaction.operators.local import LocalActionOperator
from airflow_asyncaction.operators.remote import RemoteActionOperator
from airflow_asyncaction.operators.routed import AsyncActionOperator
from airflow_asyncaction.operators.service import ServiceActionOperator

if TYPE_CHECKING:
    from airflow_asyncaction.operators.kubernetes import KubeActionOperator

__all__ = [
    "AsyncActionOperator",
    "KubeActionOperator",
    "LocalActionOperator",
    "RemoteActionOperator",
    "ServiceActionOperator",
]


def __getattr__(name: str) -> Any:
    """Import the Kubernetes client, which takes a second, only for Dags that use it."""
    if name == "KubeActionOperator":
        from airflow_asyncaction.operators.kubernetes import KubeActionOperator

        return KubeActionOperator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
