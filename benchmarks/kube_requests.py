# SPDX-License-Identifier: Apache-2.0
"""Request counts of a Kubernetes API server, from its own metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client as k8s

from dev.cluster import ACCOUNT, Cluster

_GROUP = "flowcontrol.apiserver.k8s.io"
_SAMPLE = re.compile(
    r"^apiserver_flowcontrol_dispatched_requests_total"
    r'\{[^}]*flow_?schema="(?P<name>[^"]*)"[^}]*\} (?P<value>\S+)$',
    re.MULTILINE | re.IGNORECASE,
)
_MINUTE_SECONDS = 60


class Requests:
    """Counts the requests of a namespace's ServiceAccount only.

    How it works: a FlowSchema of its own makes the API server count them. What goes on for long, a watch or a
    log that is followed, is one request, and none to servers before 1.23.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._core = cluster.core
        self._name = cluster.namespace

    def per_minute(self) -> float:
        """Count requests for a minute."""
        before, since = self._count(), time.monotonic()
        time.sleep(_MINUTE_SECONDS)
        return (self._count() - before) * _MINUTE_SECONDS / (time.monotonic() - since)

    def _count(self) -> float:
        response = self._core.api_client.call_api(
            *("/metrics", "GET"),
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        samples = _SAMPLE.finditer(response.data.decode())
        return sum(float(sample["value"]) for sample in samples if sample["name"] == self._name)


@contextmanager
def counted(cluster: Cluster) -> Iterator[Requests]:
    """Have the API server count the requests made with ``cluster.kubeconfig`` in the block."""
    group = k8s.ApisApi(cluster.core.api_client).get_api_versions().groups
    version = next(each.preferred_version.version for each in group if each.name == _GROUP)
    objects = k8s.CustomObjectsApi(cluster.core.api_client)
    where = (_GROUP, version, "flowschemas")
    objects.create_cluster_custom_object(*where, _flow_schema(cluster.namespace, version))
    try:
        yield Requests(cluster)
    finally:
        objects.delete_cluster_custom_object(*where, cluster.namespace)


def _flow_schema(namespace: str, version: str) -> dict[str, Any]:
    account = {"name": ACCOUNT, "namespace": namespace}
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
    rule = {
        "subjects": [{"kind": "ServiceAccount", "serviceAccount": account}],
        "resourceRules": [everything],
    }
    return {
        "apiVersion": f"{_GROUP}/{version}",
        "kind": "FlowSchema",
        "metadata": {"name": namespace},
        "spec": {
            "matchingPrecedence": 500,
            "priorityLevelConfiguration": {"name": "workload-low"},
            "rules": [rule],
        },
    }
