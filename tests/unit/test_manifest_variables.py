# SPDX-License-Identifier: Apache-2.0
"""Variables of webda's KubeRunner in manifests: replaced or refused, and values are never expanded again."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from airflow.sdk import DAG
from jinja2 import Template
from kubernetes import client as k8s

from airflow_asyncaction.operators import KubeActionOperator
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.runners.manifest_variables import render_around, replace_variables
from airflow_asyncaction.runners.pods.spec import parse_manifest

WEBDAS_DEFAULT = """apiVersion: batch/v1
kind: Job
metadata:
  name: ${serviceName}-${JOB_ID}
spec:
  template:
    spec:
      containers:
        - image: ${image}
          name: ${serviceName}
          resources: {}
          env: [{name: REGION, value: "${env.REGION}"}]
      restartPolicy: Never
"""
VARIABLES = {"JOB_ID": "the-id", "serviceName": "shop", "image": "shop:7", "env.REGION": "eu"}
INFO = JobInfo(job_id=JobId("the-id"), secret_key="topsecret", hook_url="https://airflow/async")


def replaced(text: str) -> Any:
    return replace_variables({"x": text}, VARIABLES)["x"]


def test_webdas_own_definition_becomes_a_pod() -> None:
    pod = parse_manifest(WEBDAS_DEFAULT, VARIABLES)
    (container,) = pod.spec.containers
    assert (pod.metadata.name, container.image, container.name) == ("shop-the-id", "shop:7", "shop")
    assert [(each.name, each.value) for each in container.env] == [("REGION", "eu")]


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("${JOB_ID}/${ image }", "the-id/shop:7"),
        ("$${JOB_ID} \\${JOB_ID}", "${JOB_ID} ${JOB_ID}"),
        ("$JOB_ID $(JOB_ID) {JOB_ID}", "$JOB_ID $(JOB_ID) {JOB_ID}"),
        ("$${VAR:-default}", "${VAR:-default}"),
        ("$", "$"),
    ],
)
def test_names_in_braces_are_variables_unless_they_are_escaped(text: str, becomes: str) -> None:
    assert replaced(text) == becomes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${NAME} ${JOB_ID}", "${NAME} is unknown"),
        ("${env.PLACE}", "${env.PLACE} is not set in the worker's environment"),
        ("${JOB_SECRET_KEY}", "is already in the environment of each container, from a Secret: remove it"),
        ("${git.short}", "${git.short} exists only in a webda application: write its value instead"),
        ("${package.version}", "write its value"),
        ("${deployment.name}", "write its value"),
        ("${now}", "write its value"),
        ("${VAR:-default}", "${VAR:-default} is an expression, but only names are replaced"),
        ("${JOB_ID.substring(0, 8)}", "is an expression"),
        ("${env['REGION']}", "is an expression"),
        ("${}", "${} is an expression"),
        ("${JOB_ID", "${JOB_ID has no closing brace"),
        ("${a ${JOB_ID}", "${a $ has no closing brace"),
        (
            "${A} ${B}",
            "${A} is unknown; ${B} is unknown. Known ones are ${JOB_ID}, ${image}, ${serviceName} and",
        ),
    ],
)
def test_what_cannot_be_replaced_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        replaced(text)
    assert "Write $${NAME}" in str(raised.value)


def test_what_templates_put_in_is_data() -> None:
    """Whoever launches an action could read the worker's environment otherwise."""
    manifest = {"a": ["${JOB_ID} DATA $${HOME}"], "b": None, "c": 3}
    data = "${env.REGION} ${nonsense:-} \\${x} $${y}"
    rendered = render_around(manifest, lambda marked: json.loads(json.dumps(marked).replace("DATA", "$$")))
    assert replace_variables(rendered, VARIABLES)["a"] == ["the-id $$ ${HOME}"]
    rendered = render_around(manifest, lambda marked: _put(marked, data))
    assert replace_variables(rendered, VARIABLES) == {"a": [f"the-id {data} ${{HOME}}"], "b": None, "c": 3}


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("${{ x }}", "$DATA"),
        ("$${{ x }}", "$$DATA"),
        ("${% if x %}a{% endif %}", "$a"),
        ("${# remark #}", "$"),
        ("{{ x }}${JOB_ID}", "DATAthe-id"),
    ],
)
@pytest.mark.parametrize("data", ["pear", "${env.REGION}", "{env.REGION}"])
def test_a_template_may_follow_a_dollar_sign(text: str, becomes: str, data: str) -> None:
    rendered = render_around({"a": text}, lambda marked: {"a": Template(marked["a"]).render(x=data)})
    assert replace_variables(rendered, VARIABLES) == {"a": becomes.replace("DATA", data)}


def _put(value: Any, data: str) -> Any:
    return {**value, "a": [text.replace("DATA", data) for text in value["a"]]}


def pod_of(made: KubeActionOperator, context: dict[str, Any]) -> k8s.V1Pod:
    made.render_template_fields(context)  # type: ignore[arg-type]
    return parse_manifest(made.job_resources, made._variables(INFO))


def test_an_operator_has_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION", "eu")
    with DAG("manifests", schedule=None):
        made = KubeActionOperator(task_id="Sell_Pears", image="{{ image }}", job_resources=WEBDAS_DEFAULT)
        named = KubeActionOperator(task_id="b", image="i", name="pears", job_resources=WEBDAS_DEFAULT)
    pod = pod_of(made, {"image": "shop:7"})
    assert (pod.metadata.name, pod.spec.containers[0].image) == ("sell-pears-the-id", "shop:7")
    assert pod_of(named, {}).metadata.name == "pears-the-id"


@pytest.mark.parametrize("secret", ["AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_X"])
def test_airflows_own_configuration_stays_with_the_worker(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secret, "canary")
    with DAG("manifests", schedule=None):
        made = KubeActionOperator(task_id="t", job_resources={"kind": "Pod", "x": f"${{env.{secret}}}"})
    with pytest.raises(ValueError, match=f"env.{secret}. is not set .* or is part of Airflow's"):
        pod_of(made, {})


def test_a_parameter_of_a_run_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION", "canary")
    manifest = "{kind: Pod, spec: {containers: [{name: '${serviceName}', args: ['{{ params.x }}']}]}}\n"
    with DAG("manifests", schedule=None):
        made = KubeActionOperator(task_id="t", job_resources=manifest)
    (container,) = pod_of(made, {"params": {"x": "${env.REGION}"}}).spec.containers
    assert (container.name, container.args) == ("t", ["${env.REGION}"])
    assert "${serviceName}" in made.job_resources  # as Airflow shows it
