# SPDX-License-Identifier: Apache-2.0
"""Arguments of KubernetesPodOperator that KubeActionOperator refuses, each with what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_TAKEN: Mapping[str, str] = {
    "callbacks": "they belong to KubernetesPodOperator's own steps: use on_success_callback and the like",
    "progress_callback": "report progress from the job",
    "container_logs": "the log of the base container goes into the task log",
    "trigger_kwargs": "the trigger is a different one, and takes none",
    "logging_interval": "the log is followed while the task is deferred",
    "log_formatter": "the triggerer, which loads no Dags, writes the log too: format lines in the job",
    "container_name_log_prefix_enabled": "only lines of init containers are prefixed",
    "schedule_timeout_seconds": "start_timeout, or startup_timeout_seconds, includes the time to schedule it",
    "log_events_on_startup": "the task's error says why a pod does not start",
    "log_events_on_failure": "the task's error says why a pod failed",
    "log_pod_spec_on_failure": 'a spec may hold secrets: use on_finish_action="keep_pod" and kubectl',
    "xcom_sidecar_container_security_context": "there is no sidecar",
    "is_delete_operator_pod": "use on_finish_action",
}
"""Refused arguments, and what to do instead. Values that ask for nothing are accepted."""

MET = frozenset({"poll_interval", "startup_check_interval_seconds", "base_container_status_polling_interval"})
"""Intervals at which KubernetesPodOperator polls. Any is met: a watch sees each change at once."""


_BASE_CONTAINER = "base"


def refusals(given: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each argument that is refused.

    :param given: the arguments, those of ``default_args`` included
    """
    base_container = given.get("base_container_name") or _BASE_CONTAINER
    return [
        f"{name}: {instead}"
        for name, instead in NOT_TAKEN.items()
        if _asks_for_something(name, given.get(name), base_container)
    ]


def _asks_for_something(name: str, value: Any, base_container: str) -> bool:
    if name == "is_delete_operator_pod":
        return value is not None
    if name == "container_logs" and value in (base_container, [base_container]):
        return False
    return bool(value)
