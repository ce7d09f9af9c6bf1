# SPDX-License-Identifier: Apache-2.0
"""KubeActionOperator: its arguments and what it registers. The system tests run it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, Asset, task
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import models as k8s

from airflow_asyncaction.decorators import returned_command
from airflow_asyncaction.decorators.kubernetes import async_action_kubernetes
from airflow_asyncaction.operators import KubeActionOperator
from airflow_asyncaction.operators.kubernetes import _parse_init_logs
from airflow_asyncaction.protocol.tasks import NeedsWorker
from airflow_asyncaction.runners.base import Runner


def operator(**kwargs: Any) -> KubeActionOperator:
    return KubeActionOperator(**{"task_id": "job", "image": "busybox", "namespace": "jobs", **kwargs})


def container(made: KubeActionOperator) -> k8s.V1Container:
    """Return the only container of the pod that the operator builds."""
    (only,) = made.build_pod_request_obj(dry_run=True).spec.containers
    return only


def test_it_is_a_kubernetes_pod_operator() -> None:
    assert isinstance(operator(), KubernetesPodOperator)
    assert set(KubernetesPodOperator.template_fields) <= set(KubeActionOperator.template_fields)
    assert {"arguments", "inputs", "args", "job_resources"} <= set(KubeActionOperator.template_fields)


@pytest.mark.parametrize("given", [{"arguments": ["-x", "1"]}, {"args": ["-x", "1"]}])
def test_a_list_is_the_containers_arguments(given: dict[str, Any]) -> None:
    made = operator(cmds=["run"], **given)
    assert (container(made).command, container(made).args) == (["run"], ["-x", "1"])
    assert made.arguments is None


def test_a_mapping_is_the_actions_arguments() -> None:
    made = operator(arguments={"table": "orders"}, args=["-v"])
    assert container(made).args == ["-v"]
    assert made.arguments == {"table": "orders"}


def test_results_need_no_side_car() -> None:
    made = operator()
    assert made.do_xcom_push
    assert container(made).name == "base"
    assert not operator(do_xcom_push=False).do_xcom_push


@pytest.mark.parametrize(
    "argument",
    ["callbacks", "progress_callback", "container_logs", "logging_interval"],
)
def test_what_it_cannot_do_is_refused_with_a_way_out(argument: str) -> None:
    with pytest.raises(ValueError, match=f"does not support {argument}: .{{10}}"):
        operator(**{argument: 1})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"job_secret": "nowhere"}, "'secret' or 'env'"),
        ({"defer_after": -1}, "defer_after is -1"),
        ({"start_timeout": 0}, "start_timeout is 0"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        operator(**wrong)


def test_the_names_of_kubernetes_pod_operator_mean_the_same() -> None:
    assert operator().options.start_timeout == timedelta(seconds=120)
    assert operator(startup_timeout_seconds=7).options.start_timeout == timedelta(seconds=7)
    assert operator(startup_timeout_seconds=7, start_timeout=8).options.start_timeout == timedelta(seconds=8)
    assert operator(termination_grace_period=3).stop_grace == timedelta(seconds=3)
    assert operator(termination_grace_period=3, stop_grace=4).stop_grace == timedelta(seconds=4)
    assert operator().stop_grace == timedelta(seconds=10)


def test_the_server_waits_for_a_first_report_only_as_it_was_asked_to() -> None:
    class Named:
        name = "kubernetes"

    runner = cast("Runner", Named())
    assert operator().build_spec(runner).start_timeout is None
    assert operator(startup_timeout_seconds=60).build_spec(runner).start_timeout is None
    asked = operator(start_timeout=60).build_spec(runner).start_timeout
    assert asked is not None
    assert asked > timedelta(seconds=60)  # the cluster's own timeout comes first
    assert operator().build_spec(runner).adoptable


def test_a_dag_with_pods_can_be_stored_and_mapped() -> None:
    with DAG("pods", schedule=None) as dag:
        first = operator(arguments={"a": "{{ ds }}"}, deferrable=True)
        KubeActionOperator.partial(task_id="mapped", image="busybox").expand(args=[["1"], ["2"]])

        @async_action_kubernetes(image="busybox")
        def command() -> list[str]:
            return ["true"]

        first >> command()
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert set(stored.task_ids) == {"job", "mapped", "command"}


def test_what_only_workers_can_do_is_left_to_them() -> None:
    def needs_worker(*, get_logs: bool = False, **kwargs: Any) -> NeedsWorker:
        with DAG("needs", schedule=None):
            return operator(get_logs=get_logs, **kwargs).needs_worker()

    assert needs_worker() is NeedsWorker.ON_FAILURE
    assert needs_worker(get_logs=True) is NeedsWorker.FOR_LOGS
    assert needs_worker(outlets=[Asset("a")]) is NeedsWorker.ALWAYS
    assert needs_worker(output_assets={"model": Asset("a")}) is NeedsWorker.ALWAYS
    assert needs_worker(on_success_callback=print) is NeedsWorker.ALWAYS
    assert needs_worker(post_execute=print) is NeedsWorker.ALWAYS
    assert needs_worker(multiple_outputs=True) is NeedsWorker.ALWAYS


def test_results_that_tasks_are_mapped_over_are_counted_by_a_worker() -> None:
    with DAG("mapped", schedule=None):
        made = operator()

        @task
        def each(item: Any) -> Any:
            return item

        each.expand(item=made.output)
        assert made.needs_worker() is NeedsWorker.ALWAYS


def numbers() -> Iterator[str]:
    yield "1"


def decorated(returned: Any) -> Any:
    """Return the operator of a decorated function, as on a worker."""

    def job() -> Any:
        return returned

    with DAG("decorated", schedule=None):
        made: Any = async_action_kubernetes(image="busybox", namespace="jobs")(job)()
    return made.operator


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "job returned None"),
        ({"echo": 1, "hello": 2}, "job returned a value of type dict"),
        ({"sum", "-r"}, "job returned a value of type set"),
        (b"echo", "job returned a value of type bytes"),
        (7, "job returned a value of type int"),
        (numbers(), "job returned a value of type generator"),
        ([], "job returned an empty list"),
        ("  ", "job returned an empty string"),
        (["sleep", 3], "job returned a list whose item 1 is of type int"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_command_is_not_run(returned: Any, said: str) -> None:
    made = decorated(returned)
    with pytest.raises(TypeError, match=f"{said}: a function of @task.async_action_kubernetes must"):
        returned_command(made, {})


@pytest.mark.parametrize(
    ("returned", "command"),
    [
        (["echo", "{{ 1 + 1 }}"], ["echo", "2"]),
        (("echo", "x"), ["echo", "x"]),
        ("echo {{ 1 + 1 }}", "echo 2"),
    ],
)
def test_a_list_of_strings_or_a_string_is_a_command(returned: Any, command: Any) -> None:
    assert returned_command(decorated(returned), {}) == command


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(None, False), (True, True), ("one", ["one"]), (["one", "two"], ["one", "two"]), (("one",), ["one"])],
)
def test_logs_of_init_containers_can_be_requested(given: Any, wanted: Any) -> None:
    assert _parse_init_logs(operator(init_container_logs=given).init_container_logs) == wanted
