# SPDX-License-Identifier: Apache-2.0
"""Task process: whether it has a supervisor process and listeners.

Uses: ``airflow.sdk.execution_time`` (``task_runner.SUPERVISOR_COMMS``,
``supervisor.InProcessSupervisorComms``), ``airflow.sdk.listener.get_listener_manager``.

Checked with Airflow 3.3.2 (Task SDK 1.3.2).

Imports are deferred, so that parsing Dag files with our operators does not need them.
"""

from __future__ import annotations


def is_in_process() -> bool:
    """Return whether this task runs without a supervisor: in ``dag.test()`` or ``airflow tasks test``."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms

    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), InProcessSupervisorComms)


def has_listeners() -> bool:
    """Return whether listeners are registered. Only workers call them."""
    from airflow.sdk.listener import get_listener_manager

    return bool(get_listener_manager().has_listeners)
