# SPDX-License-Identifier: Apache-2.0
"""Checks of a pod task before it runs: its arguments, its cluster, and the URL that its pod reports to."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow.sdk.exceptions import AirflowException
from kubernetes.config import ConfigException

from airflow_asyncaction.exceptions import ClusterNotConfigured
from airflow_asyncaction.retrying import as_sentence

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

T = TypeVar("T")

_GUIDE = "See docs/kubernetes/first-pod.md for step-by-step instructions"

UNSUPPORTED: Mapping[str, str] = {
    "callbacks": "this operator does not call them: use on_success_callback, on_failure_callback etc.",
    "progress_callback": "report progress from the job",
    "container_logs": "the log of the base container goes into the task log",
    "trigger_kwargs": "this operator's own trigger takes none",
    "logging_interval": "the log is followed while the task is deferred",
    "log_formatter": "the triggerer, which loads no Dags, writes the log too: format lines in the job",
    "container_name_log_prefix_enabled": "only lines of init containers are prefixed",
    "schedule_timeout_seconds": "start_timeout, or startup_timeout_seconds, includes scheduling",
    "log_events_on_startup": "the task's error says why a pod does not start",
    "log_events_on_failure": "the task's error says why a pod failed",
    "log_pod_spec_on_failure": 'a spec may contain secrets: use on_finish_action="keep_pod" and kubectl',
    "xcom_sidecar_container_security_context": "there is no sidecar",
    "is_delete_operator_pod": "use on_finish_action",
}
"""Arguments of KubernetesPodOperator that KubeActionOperator rejects, and why, or what to do instead.

Values that have no effect are accepted.
"""

POLL_INTERVALS = frozenset(
    {"poll_interval", "startup_check_interval_seconds", "base_container_status_polling_interval"}
)
"""Intervals at which KubernetesPodOperator polls. They are ignored: a watch sees changes at once."""

_BASE_CONTAINER = "base"


def find_unsupported(arguments: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each argument that is rejected.

    :param arguments: including those from ``default_args``
    """
    base_container = arguments.get("base_container_name") or _BASE_CONTAINER
    return [
        f"{name}: {instead}"
        for name, instead in UNSUPPORTED.items()
        if _has_effect(name, arguments.get(name), base_container)
    ]


def _has_effect(name: str, value: Any, base_container: str) -> bool:
    if name == "is_delete_operator_pod":
        return value is not None
    if name == "container_logs" and value in (base_container, [base_container]):
        return False
    return bool(value)


def connect_to_cluster(connect: Callable[[], T], cluster: Mapping[str, Any]) -> T:
    """Return the client of the cluster that an operator names.

    :param cluster: the arguments that name it
    :raises ClusterNotConfigured: they name no usable cluster
    """
    try:
        return connect()
    except (AirflowException, ConfigException, OSError, ValueError) as error:
        named = ", ".join(f"{name}={value!r}" for name, value in cluster.items() if value is not None)
        tried = f"Cannot connect to a Kubernetes cluster ({named or 'none is configured'})"
        raise ClusterNotConfigured(
            f"{tried}: {as_sentence(str(error))}"
            " Set one of these: kubernetes_conn_id, a connection of type kubernetes with kube_config_path or"
            " kube_config in its extra; config_file, the path of a kubeconfig; in_cluster=True, for workers"
            f" that are pods of the cluster. {_GUIDE}"
        ) from error


def check_hook_url(hook_url: str, *, is_in_process: bool, must_report: bool, log: Logger) -> None:
    """Check that pods can reach the job routes, as far as the address shows.

    :param is_in_process: whether the task serves them itself (``dag.test()``)
    :param must_report: whether the job cannot succeed without reporting
    :raises ValueError: they cannot be reached, and the job must report
    """
    if not _is_loopback(urlsplit(hook_url).hostname or ""):
        return
    option = (
        "[asyncaction] test_host to the address" if is_in_process else "[asyncaction] base_url to the URL"
    )
    target = "this machine" if is_in_process else "the API server"
    message = (
        f"Pods cannot reach {hook_url} (JOB_HOOK): inside a pod, that is the pod itself. Set {option} at"
        f" which pods reach {target}. {_GUIDE}"
    )
    if must_report:
        raise ValueError(message)
    log.warning("%s. Ignore this if the job does not report", message)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
