# SPDX-License-Identifier: Apache-2.0
"""Advice on requests that the Kubernetes API refuses, according to its error message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

# The rules of docs/kubernetes/rbac.yaml.
_VERBS: Mapping[str, tuple[str, ...]] = {
    "pods": ("create", "get", "list", "watch", "delete"),
    "pods/log": ("get",),
    "secrets": ("create", "get", "delete"),
}
_ALTERNATIVE = (
    'or set job_secret="env", which needs no Secret and puts the job\'s secret into the pod in plain text'
)


def add_advice(message: str, status: int | None) -> str:
    """Return the API's message with advice, if there is any.

    :param status: HTTP status of the response
    """
    advice = _find_advice(message, status)
    return f"{message.rstrip('. ')}. {advice}" if advice else message


def _find_advice(message: str, status: int | None) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            "The cluster does not accept Airflow's credentials: renew those of kubernetes_conn_id or"
            " config_file. A token may have expired"
        )
    for pattern, advise in _KNOWN:
        if (found := re.search(pattern, message, re.IGNORECASE | re.DOTALL)) is not None:
            return advise if isinstance(advise, str) else advise(found)
    return ""


def _advise_rule(found: re.Match[str]) -> str:
    resource, namespace = found["resource"], found["namespace"]
    verbs = sorted({*_VERBS.get(resource, ()), found["verb"]}, key=_in_order(resource))
    rule = json.dumps({"apiGroups": [""], "resources": [resource], "verbs": verbs})
    where = f"in the namespace {namespace}" if namespace else "in the pod's namespace"
    advice = f"Grant Airflow's account this permission {where}: {rule} (docs/kubernetes/rbac.yaml lists all)"
    return f"{advice}, {_ALTERNATIVE}" if resource == "secrets" else advice


def _in_order(resource: str) -> Callable[[str], int]:
    known = _VERBS.get(resource, ())
    return lambda verb: known.index(verb) if verb in known else len(known)


def _advise_quota(found: re.Match[str]) -> str:
    advice = "Raise the quota, or set retries and retry_delay, so that the task waits for capacity"
    return f"{advice}; {_ALTERNATIVE}" if found["kind"] == "secrets" else advice


_Advise = str | Callable[[re.Match[str]], str]

_WEBHOOK = (
    "A webhook of the cluster does not answer, so that the cluster rejects every request it applies to: ask"
    " the cluster's administrator"
)
_POLICY = (
    "A policy of the cluster rejects the pod: change it as the message says (security_context,"
    " container_security_context, image, labels, ...), or ask the cluster's administrator"
)
_FORBIDDEN = (
    r'cannot (?P<verb>\w+) resource "(?P<resource>[\w/]+)"(.*? in the namespace "(?P<namespace>[^"]+)")?'
)
_KNOWN: tuple[tuple[str, _Advise], ...] = (
    (_FORBIDDEN, _advise_rule),
    (r"(?P<kind>pods|secrets)\b.*exceeded quota", _advise_quota),
    (
        r"failed quota.*must specify",
        "Set those requests and limits for the container (container_resources): the quota requires them",
    ),
    (r"failed calling webhook", _WEBHOOK),
    (r"admission webhook .* denied|denied the request|violates PodSecurity", _POLICY),
    (r"because it is being terminated", "The namespace is being deleted: use another one (namespace)"),
    (
        r'namespaces "[^"]*" not found',
        "Create the namespace, or name another one (namespace, or that of kubernetes_conn_id)",
    ),
    (
        r"service ?account .*not found",
        "Create that ServiceAccount in the pod's namespace, or name another one (service_account_name)",
    ),
    (
        r"(?:maximum|minimum) .* (?:usage|limit|ratio)",
        "Stay within the namespace's LimitRange (container_resources)",
    ),
    (r"no PriorityClass with name", "Name a PriorityClass of the cluster (priority_class_name)"),
)
