# SPDX-License-Identifier: Apache-2.0
"""Commands: helpers of Airflow's own CLI for audit logs, logging and output.

Uses: ``airflow.utils.cli`` (``action_cli``, ``suppress_logs_and_warning``),
``airflow.utils.platform.getuser``, ``airflow.cli.simple_table.AirflowConsole``.

Checked with Airflow 3.3.2.

``airflow.cli.cli_config``, which declares a provider's commands, is public.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import action_cli, suppress_logs_and_warning
from airflow.utils.platform import getuser

__all__ = ["AirflowConsole", "audited", "getuser", "suppress_logs_and_warning"]

P = ParamSpec("P")
T = TypeVar("T")


def audited(command: Callable[P, T]) -> Callable[P, T]:
    """Record a command in Airflow's audit log. Its first argument must be the parsed ``Namespace``."""
    return cast("Callable[P, T]", action_cli(check_db=False)(command))
