# SPDX-License-Identifier: Apache-2.0
"""Access of a task to its cluster, and of its pod to the job routes: errors say what to configure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow.sdk.exceptions import AirflowException
from kubernetes.config import ConfigException

from airflow_asyncaction.exceptions import ClusterNotConfigured

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

T = TypeVar("T")

_GUIDE = "docs/kubernetes/first-pod.md shows it step by step"


def connected(connect: Callable[[], T], place: Mapping[str, Any]) -> T:
    """Return the client of the cluster that an operator names.

    :param place: by which arguments it does
    :raises ClusterNotConfigured: it names none that can be used
    """
    try:
        return connect()
    except (AirflowException, ConfigException, OSError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in place.items() if value is not None)
        raise ClusterNotConfigured(
            f"No Kubernetes cluster can be used ({given or 'none is configured'}): {str(error).rstrip('.')}."
            " Give one of these: kubernetes_conn_id, a connection of type kubernetes with kube_config_path or"
            " kube_config in its extra; config_file, the path of a kubeconfig; in_cluster=True, for workers"
            f" that are pods of the cluster. {_GUIDE}"
        ) from error


def check_hook(hook_url: str, *, is_in_process: bool, must_report: bool, log: Logger) -> None:
    """Check that pods may reach the job routes, as far as the address shows.

    :param is_in_process: whether the task serves them itself (``dag.test()``)
    :param must_report: whether the job has to report, so that it cannot succeed without them
    :raises ValueError: they cannot, and must
    """
    if not _is_loopback(urlsplit(hook_url).hostname or ""):
        return
    option = (
        "[asyncaction] test_host to the address" if is_in_process else "[asyncaction] base_url to the URL"
    )
    reached = "this machine" if is_in_process else "the API server"
    said = (
        f"Pods cannot reach {hook_url} (JOB_HOOK): in a pod, that is the pod itself. Set {option} at which"
        f" pods reach {reached}. {_GUIDE}"
    )
    if must_report:
        raise ValueError(said)
    log.warning("%s. A job that does not report can ignore this", said)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
