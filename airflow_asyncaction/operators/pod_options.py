# SPDX-License-Identifier: Apache-2.0
"""What configuration may say of pods: arguments of KubeActionOperator, as plain JSON or YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from inspect import signature
from types import SimpleNamespace
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes import client as k8s

from airflow_asyncaction.operators.kubernetes import KubeActionOperator

# The action's and the task's, which are the Dag author's; and what KubeActionOperator never takes.
_NOT_OF_PODS = frozenset(
    {
        "self",
        "kwargs",
        "arguments",
        "service_name",
        "do_xcom_push",
        "callbacks",
        "progress_callback",
        "container_logs",
        "trigger_kwargs",
        "logging_interval",
        "log_formatter",
    }
)
_MODEL = re.compile(r"(?P<list>list\[)?k8s\.(?P<model>\w+)")


@cache
def pod_options() -> Mapping[str, str]:
    """Return the annotation of each argument that configuration may give, by name."""
    operators: tuple[Any, ...] = (KubernetesPodOperator, KubeActionOperator)
    return {
        name: str(parameter.annotation)
        for operator in operators
        for name, parameter in signature(operator.__init__).parameters.items()
        if name not in _NOT_OF_PODS
    }


def pod_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with Kubernetes' own objects in place of what is written like in a manifest.

    :raises ValueError: one is no such object
    """
    annotations = pod_options()
    return {name: _as_model(name, value, annotations.get(name, "")) for name, value in options.items()}


def _as_model(name: str, value: Any, annotation: str) -> Any:
    found = _MODEL.search(annotation)
    if found is None or not isinstance(value, list if found["list"] else dict):
        return value
    model = f"list[{found['model']}]" if found["list"] else found["model"]
    try:
        return k8s.ApiClient().deserialize(SimpleNamespace(data=json.dumps(value)), model)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"[asyncaction] runners: {name} is no {found['model']}: {error}") from None
