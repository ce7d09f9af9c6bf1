# SPDX-License-Identifier: Apache-2.0
"""Operators for Dag authors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_asyncaction.operators.kubernetes import KubeActionOperator
    from airflow_asyncaction.operators.local import LocalActionOperator
    from airflow_asyncaction.operators.remote import RemoteActionOperator
    from airflow_asyncaction.operators.routed import AsyncActionOperator
    from airflow_asyncaction.operators.service import ServiceActionOperator

__all__ = [
    "AsyncActionOperator",
    "KubeActionOperator",
    "LocalActionOperator",
    "RemoteActionOperator",
    "ServiceActionOperator",
]


_MODULES = {
    "AsyncActionOperator": "routed",
    "KubeActionOperator": "kubernetes",
    "LocalActionOperator": "local",
    "RemoteActionOperator": "remote",
    "ServiceActionOperator": "service",
}


def __getattr__(name: str) -> Any:
    """Import only the operators that a Dag uses: the Kubernetes client alone takes a second."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
