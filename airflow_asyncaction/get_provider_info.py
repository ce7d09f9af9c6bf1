# SPDX-License-Identifier: Apache-2.0
"""Provider info: metadata that Airflow reads at the start of each of its processes. Imports stay light."""

from __future__ import annotations

from typing import Any

from airflow_asyncaction import __version__
from airflow_asyncaction.settings import provider_config

# Connection to another deployment (hooks.async_action). Airflow reads connection forms only from here.
_CONNECTION_TYPE = {
    "connection-type": "asyncaction",
    "hook-class-name": "airflow_asyncaction.hooks.async_action.AsyncActionHook",
    "hook-name": "Async Action",
    "ui-field-behaviour": {
        "hidden-fields": [],
        "relabeling": {"host": "Base URL", "schema": "Scheme (if not in the URL)"},
        "placeholders": {
            "host": "https://airflow.example.org/async",
            "schema": "https",
            "login": "a user who may trigger the Dags of the operations",
        },
    },
    "conn-fields": {
        "kind": {
            "label": "Server",
            "description": "airflow: an Airflow deployment with this provider. webda: a webda server, to"
            " which login and password are sent with HTTP Basic authentication.",
            "schema": {
                "type": ["string", "null"],
                "enum": ["airflow", "webda", None],
                "default": "airflow",
            },
        },
        "token": {
            "label": "Bearer token, instead of login and password",
            "schema": {"type": ["string", "null"], "format": "password"},
        },
        "airflow_url": {
            "label": "URL of that Airflow, for /auth/token, if it is not the parent of the base URL",
            "schema": {"type": ["string", "null"]},
        },
        "verify": {
            "label": "Verify TLS certificates: true, false, or the path of a CA file or folder",
            "schema": {"type": ["string", "null"], "default": "true"},
        },
        "timeout": {
            "label": "Timeout of a request, in seconds",
            "schema": {"type": ["number", "null"], "default": 30},
        },
    },
}


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
        "connection-types": [_CONNECTION_TYPE],
        "extra-links": ["airflow_asyncaction.links.ActionLink"],
        "operators": [
            {
                "integration-name": "Async Action",
                "python-modules": [
                    "airflow_asyncaction.operators.kubernetes",
                    "airflow_asyncaction.operators.local",
                    "airflow_asyncaction.operators.remote",
                    "airflow_asyncaction.operators.routed",
                    "airflow_asyncaction.operators.service",
                ],
            }
        ],
        "hooks": [
            {
                "integration-name": "Async Action",
                "python-modules": ["airflow_asyncaction.hooks.async_action"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Async Action",
                "python-modules": [
                    "airflow_asyncaction.triggers.pods.trigger",
                    "airflow_asyncaction.triggers.remote",
                ],
            }
        ],
        "cli": ["airflow_asyncaction.cli.get_cli_commands"],
        "config": provider_config(),
    }
