# SPDX-License-Identifier: Apache-2.0
"""What a Kubernetes API server has been asked by those who run pods, from its own counters."""

from __future__ import annotations

import re
import time

from kubernetes import client as k8s

_SAMPLE = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_MINUTE_SECONDS = 60

# What the clients of both operators ask for. A watch of Secrets is the kubelet's, and so is all that
# concerns pods/status. A watch, or a log that is followed, counts when it ends.
_ASKED = {
    "pods": {"GET", "LIST", "WATCH", "POST", "PATCH", "DELETE"},
    "pods/log": {"GET"},
    "secrets": {"GET", "POST", "DELETE"},
    "events": {"GET", "LIST", "WATCH"},
}


def requests_per_minute(core: k8s.CoreV1Api) -> float:
    """Count for a minute."""
    before, since = _count(core), time.monotonic()
    time.sleep(_MINUTE_SECONDS)
    return (_count(core) - before) * _MINUTE_SECONDS / (time.monotonic() - since)


def _count(core: k8s.CoreV1Api) -> float:
    response = core.api_client.call_api(
        *("/metrics", "GET"),
        auth_settings=["BearerToken"],
        _preload_content=False,
        _return_http_data_only=True,
    )
    metrics = response.data.decode()
    total = 0.0
    for sample in _SAMPLE.finditer(metrics):
        labels = dict(_LABEL.findall(sample["labels"]))
        subresource = labels.get("subresource")
        resource = labels.get("resource", "") + (f"/{subresource}" if subresource else "")
        if labels.get("verb") in _ASKED.get(resource, ()):
            total += float(sample["value"])
    return total
