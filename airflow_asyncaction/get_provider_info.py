# SPDX-License-Identifier: Apache-2.0
"""What Airflow asks of every provider. Called at each start of each Airflow process: imports stay light."""

from __future__ import annotations

from typing import Any

from airflow_asyncaction import __version__
from airflow_asyncaction.settings import provider_config


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata (entry point ``apache_airflow_provider``)."""
    return {
        "package-name": "airflow-asyncaction",
        "name": "Async Action",
        "description": "Run any program as a task that reports back over signed HTTP.",
        "versions": [__version__],
        "db-managers": ["airflow_asyncaction.store.db_manager.AsyncActionDBManager"],
        "task-decorators": [
            {"name": "async_action", "class-name": "airflow_asyncaction.decorators.async_action"},
            {
                "name": "async_action_kubernetes",
                "class-name": "airflow_asyncaction.decorators.kubernetes.async_action_kubernetes",
            },
            {"name": "async_action_local", "class-name": "airflow_asyncaction.decorators.async_action_local"},
        ],
        "operators": [
            {
                "integration-name": "Async Action",
                "python-modules": [
                    "airflow_asyncaction.operators.kubernetes",
                    "airflow_asyncaction.operators.local",
                    "airflow_asyncaction.operators.service",
                ],
            }
        ],
        "hooks": [
            {
                "integration-name": "Async Action",
                "python-modules": ["airflow_asyncaction.hooks.task"],
            }
        ],
        "triggers": [
            {"integration-name": "Async Action", "python-modules": ["airflow_asyncaction.triggers.pods"]}
        ],
        "cli": ["airflow_asyncaction.cli.get_cli_commands"],
        "config": provider_config(),
    }
