# SPDX-License-Identifier: Apache-2.0
"""Advice in error messages about Kubernetes API errors, for real messages of Kubernetes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from airflow_asyncaction.runners.pods.api_advice import add_advice

ACCOUNT = 'User "system:serviceaccount:jobs:airflow"'
IN_JOBS = 'in API group "" in the namespace "jobs"'
SAID = {
    f'secrets is forbidden: {ACCOUNT} cannot create resource "secrets" {IN_JOBS}': (
        '{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "delete"]}',
        "in the namespace jobs",
        'job_secret="env"',
    ),
    f'pods is forbidden: {ACCOUNT} cannot list resource "pods" {IN_JOBS}': (
        '"verbs": ["create", "get", "list", "watch", "delete"]',
    ),
    f'pods "p" is forbidden: {ACCOUNT} cannot get resource "pods/log" {IN_JOBS}': (
        '"resources": ["pods/log"], "verbs": ["get"]',
    ),
    'secrets "p" is forbidden: exceeded quota: few, requested: secrets=1, used: secrets=1': (
        "Raise the quota",
        'job_secret="env"',
    ),
    'pods "p" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1': (
        "Raise the quota",
    ),
    'pods "p" is forbidden: failed quota: few: must specify limits.cpu,limits.memory': (
        "container_resources",
    ),
    'Internal error occurred: failed calling webhook "w.example": Post "https://a/": deadline exceeded': (
        "A webhook of the cluster does not answer",
    ),
    'admission webhook "w.example" denied the request: no label "team"': ("A policy of the cluster",),
    'pods "p" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true': (
        "container_security_context",
    ),
    'pods "p" is forbidden: unable to create new content in namespace jobs because it is being terminated': (
        "being deleted",
    ),
    'namespaces "jobs" not found': ("Create the namespace",),
    'pods "p" is forbidden: error looking up service account jobs/x: serviceaccount "x" not found': (
        "service_account_name",
    ),
    'pods "p" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi': ("LimitRange",),
    'pods "p" is forbidden: no PriorityClass with name high was found': ("priority_class_name",),
}


@pytest.mark.parametrize("said", SAID)
def test_advice_fits_the_reason(said: str) -> None:
    text = add_advice(said, 403)
    assert text.startswith(said)
    for part in SAID[said]:
        assert part in text
    others = {"Grant Airflow's account this permission", "Raise the quota", "A webhook", "A policy"}
    assert sum(other in text for other in others) <= 1


def test_what_explains_itself_is_left_as_it_is() -> None:
    said = 'Pod "p" is invalid: spec.containers[0].resources.limits[memory]: Invalid value: "-1"'
    assert add_advice(said, 422) == said


def test_credentials_that_are_refused_are_to_be_renewed() -> None:
    assert "kubernetes_conn_id" in add_advice("Unauthorized", 401)


def test_the_rights_are_those_of_the_role() -> None:
    path = Path(__file__).parents[2] / "docs" / "kubernetes" / "rbac.yaml"
    (role,) = (each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "Role")
    for rule in role["rules"]:
        (resource,) = rule["resources"]
        said = f'{resource} is forbidden: User "a" cannot {rule["verbs"][0]} resource "{resource}"'
        verbs = ", ".join(f'"{verb}"' for verb in rule["verbs"])
        assert f'"resources": ["{resource}"], "verbs": [{verbs}]' in add_advice(said, 403)
