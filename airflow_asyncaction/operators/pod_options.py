# SPDX-License-Identifier: Apache-2.0
"""Pod options in ``[asyncaction] runners``: arguments of KubeActionOperator, as plain JSON or YAML."""

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

# Arguments of the action and the task, which only the Dag sets, and some that KubeActionOperator rejects.
_NOT_CONFIGURABLE = frozenset(
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
def list_pod_options() -> Mapping[str, str]:
    """Return the annotation of each argument that the configuration may set, by name."""
    operators: tuple[Any, ...] = (KubernetesPodOperator, KubeActionOperator)
    return {
        name: str(parameter.annotation)
        for operator in operators
        for name, parameter in signature(operator.__init__).parameters.items()
        if name not in _NOT_CONFIGURABLE
    }


def convert_pod_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, with Kubernetes models in place of manifest-style values.

    :raises ValueError: an option does not match its model
    """
    annotations = list_pod_options()
    return {name: _convert(name, value, annotations.get(name, "")) for name, value in options.items()}


def _convert(name: str, value: Any, annotation: str) -> Any:
    found = _MODEL.search(annotation)
    if found is None or not isinstance(value, list if found["list"] else dict):
        return value
    model = f"list[{found['model']}]" if found["list"] else found["model"]
    try:
        return k8s.ApiClient().deserialize(SimpleNamespace(data=json.dumps(value)), model)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"[asyncaction] runners: {name} is not a valid {found['model']}: {error}") from None
