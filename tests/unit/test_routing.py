# SPDX-License-Identifier: Apache-2.0
"""``[asyncaction] runners``: validation, the chosen runner, and its queue and pool for the scheduler."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.sdk import DAG, Asset
from airflow.serialization.serialized_objects import DagSerialization
from jinja2 import StrictUndefined, UndefinedError
from jinja2.sandbox import SandboxedEnvironment
from kubernetes import client as k8s

from airflow_asyncaction import runner_config, settings
from airflow_asyncaction.operators import (
    AsyncActionOperator,
    KubeActionOperator,
    LocalActionOperator,
    ServiceActionOperator,
)
from airflow_asyncaction.operators.pod_options import convert_pod_options
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.runner_config import RunnerConfig, parse
from airflow_asyncaction.runners.local import LocalRunner
from airflow_asyncaction.runners.pods.spec import parse_manifest
from airflow_asyncaction.runners.routing import (
    NoMatch,
    choose_runner,
    import_object,
    matches_pattern,
    render_option,
)

LOCAL = {"name": "here", "kind": "local", "command": "true"}
CALL = {"service_name": "ShopService", "method": "add"}
Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Return a function that configures runners from entries."""

    def clear() -> None:
        settings.load.cache_clear()
        runner_config.load.cache_clear()

    def set_runners(*entries: dict[str, Any], fallback_on_first: bool = False) -> None:
        clear()
        monkeypatch.setenv("AIRFLOW__ASYNCACTION__RUNNERS", json.dumps(entries))
        monkeypatch.setenv("AIRFLOW__ASYNCACTION__FALLBACK_ON_FIRST", str(fallback_on_first))

    yield set_runners
    clear()


def runners(*entries: dict[str, Any]) -> tuple[RunnerConfig, ...]:
    return parse(json.dumps(entries))


def named(name: str, *actions: str) -> dict[str, Any]:
    return {**LOCAL, "name": name, "actions": list(actions)}


@pytest.mark.parametrize(
    ("pattern", "type_", "is_match"),
    [
        ("*", "etl.load", True),
        ("*", "", True),
        ("etl.*", "etl.load", True),
        ("etl.*", "etl.load.orders", True),
        ("etl.*", "etl", False),
        ("etl.*", "etlxload", False),
        ("etl.*", "my.etl.load", False),
        ("*.load", "etl.load", True),
        ("e*.l*d", "etl.load", True),
        ("report", "report", True),
        ("report", "reports", False),
        ("Report", "report", False),
        ("r?port", "report", False),
        ("[r]eport", "report", False),
        ("a*", "a\nb", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*a*b*a*", "aba", True),
        ("*ab*ba*", "aba", False),
        ("**", "x", True),
        (f"{'*a' * 30}*b", "a" * 250, False),
    ],
)
def test_a_star_stands_for_any_text_and_all_else_for_itself(pattern: str, type_: str, is_match: bool) -> None:
    assert matches_pattern(pattern, type_) is is_match


@pytest.mark.parametrize(
    ("type_", "fallback", "name"),
    [
        ("etl.load", False, "etl"),
        ("etl.sql", False, "etl"),
        ("my.sql", False, "sql"),
        ("other", False, None),
        ("other", True, "etl"),
        ("my.sql", True, "sql"),
    ],
)
def test_the_first_runner_that_is_for_a_type_is_chosen(type_: str, fallback: bool, name: str | None) -> None:
    configured = runners(named("etl", "etl.*"), named("sql", "*.sql", "sql"))
    choice = choose_runner(configured, type_, fallback_on_first=fallback)
    assert (choice.name if isinstance(choice, RunnerConfig) else None) == name


def test_without_a_match_it_is_said_what_was_looked_at() -> None:
    choice = choose_runner(runners(named("etl", "etl.*", "load"), named("sql", "*.sql")), "report")
    assert isinstance(choice, NoMatch)
    for said in ("'report'", "etl handles etl.*, load", "sql handles *.sql", "fallback_on_first"):
        assert said in str(choice)


@pytest.mark.parametrize("fallback", [True, False])
def test_without_runners_there_is_none_to_choose(fallback: bool) -> None:
    choice = choose_runner((), "report", fallback_on_first=fallback)
    assert isinstance(choice, NoMatch)
    assert "set [asyncaction] runners" in str(choice)


def test_an_entry_has_defaults() -> None:
    (only,) = runners(LOCAL)
    assert (only.actions, only.queue, only.pool, only.slots) == (("*",), None, None, None)
    assert only.options == {"command": "true"}


def test_nothing_configured_is_no_runner() -> None:
    assert parse("") == parse(" \n") == parse("[]") == ()


@pytest.mark.parametrize("name", ["runners.json", "runners.yaml", "runners.yml"])
def test_a_path_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps([LOCAL]))
    assert parse(str(tmp_path / name)) == runners(LOCAL)


def test_a_file_may_be_yaml(tmp_path: Path) -> None:
    path = tmp_path / "runners.yaml"
    path.write_text("- name: here\n  kind: local\n  actions: ['etl.*']\n  command: [echo, '{{ ds }}']\n")
    (only,) = parse(str(path))
    assert (only.name, only.actions, only.options["command"]) == ("here", ("etl.*",), ["echo", "{{ ds }}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runners.toml", "must be a JSON list, or the path of a file that ends in .json, .yaml, .yml"),
        ("[{]", "must be a JSON list, or the path"),
        ("{}", "must be a list of runners, not a dict"),
        ('["local"]', "number 1 must be an object, not a str"),
        ("/no/such/runners.yaml", "/no/such/runners.yaml cannot be read"),
    ],
)
def test_what_is_no_list_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        parse(text)
    assert str(raised.value).startswith("[asyncaction] runners")


def test_an_option_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runners.yaml"
    path.write_text("- {name: here, kind: local, command: x, 7: y}")
    with pytest.raises(ValueError, match="here: 7: must be text: it is the name of an option"):
        parse(str(path))


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runners.yaml"
    path.write_text("- [")
    with pytest.raises(ValueError, match=f"{path} cannot be read"):
        parse(str(path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, "number 1: name: must be up to 50 of A-Z a-z 0-9 _ . -, not None"),
        ({"name": "a b"}, "number 1: name: must be up to 50 of A-Z a-z 0-9 _ . -, not 'a b'"),
        ({"kind": "pod"}, "here: kind: must be one of 'local', 'service', 'kubernetes', or"),
        ({"kind": None}, "here: kind: must be one of"),
        ({"kind": "my runner.Class"}, "here: kind: "),
        ({"actions": "etl.*"}, "here: actions: must be a list of types"),
        ({"actions": []}, "here: actions: "),
        ({"actions": [1]}, "here: actions: "),
        ({"queue": 1}, "here: queue: must be a name without templates, not 1"),
        ({"pool": "{{ ds }}"}, "here: pool: must be a name without templates, not '{{ ds }}'"),
        ({"concurrency_limit": 0}, "here: concurrency_limit: must be an integer of 1 or more, not 0"),
        ({"concurrency_limit": True}, "here: concurrency_limit: must be an integer of 1 or more, not True"),
        ({"concurrency_limit": 2, "pool": "p"}, "here: concurrency_limit: creates a pool of its own"),
        ({"comand": "x"}, "here: comand: unknown option: did you mean 'command'?"),
        ({"image": "x"}, "here: image: unknown option"),
        ({"command": ""}, "here: command: must be a string for the shell, or a list of strings"),
        ({"command": ["a", 1]}, "here: command: "),
        ({"env": {"N": 1}}, "here: env: must be an object of strings"),
        ({"cwd": 3}, "here: cwd: "),
        ({"heartbeat_timeout": 0}, "here: heartbeat_timeout: must be a number of seconds above 0"),
        ({"stop_grace": "5"}, "here: stop_grace: must be a number of seconds, 0 or more"),
        ({"completion": "done"}, 'here: completion: must be "exit" or "report"'),
        ({"require_report": 1}, "here: require_report: must be true or false"),
        *(
            ({"skip_on_exit_code": wrong}, "here: skip_on_exit_code: must be an exit code from 0 to 255")
            for wrong in (256, -1, "99", True, [300], {"99": 1})
        ),
        ({"orchestrator": ""}, "here: orchestrator: must be text of 1 to 250 printable characters"),
        ({"kind": "service"}, "here: command: unknown option"),
    ],
)
def test_a_wrong_entry_is_refused_by_name_and_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"[asyncaction] runners: {said}")):
        runners({**LOCAL, **change})


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"kind": "local"}, "r: command: missing: must be a string for"),
        ({"kind": "service"}, "r: callable: missing: must be the name of"),
        ({"kind": "service", "callable": "a.b.c"}, 'r: callable: must be the name of a callable, "pack'),
        ({"kind": "service", "callable": "a:b", "completion": "report"}, "r: completion: must be"),
        (
            {"kind": "service", "callable": "a:b", "skip_on_exit_code": 9},
            "r: skip_on_exit_code: must",
        ),
        ({"kind": "my.Runner", "stop_grace": -1}, "r: stop_grace: "),
        ({"kind": "kubernetes", "start_timeout": "soon"}, "r: start_timeout: "),
    ],
)
def test_each_kind_has_what_it_needs(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        runners({"name": "r", **entry})


@pytest.mark.parametrize(
    "template",
    [
        "{{ action.arguments.table }}",
        "{{ action['arguments']['table'] }}",
        "{% for table in action.arguments.tables %}{{ table }} {% endfor %}",
        "{% set a = action %}{{ a.arguments }}",
        "{{ action | tojson }}",
        "{{ action[part] }}",
        "{{ params.table }}",
        "{{ dag_run.conf['table'] }}",
    ],
)
@pytest.mark.parametrize(
    ("kind", "field", "before", "after"),
    [
        ("local", "command", None, None),
        ("local", "command", ["sh", "-c"], []),
        ("local", "command", ["nice", "/bin/bash", "-euo", "pipefail", "-c"], ["vacuum", "x"]),
        ("kubernetes", "cmds", ["sh", "-ec"], []),
        ("my.Runner", "command", ["sh", "-c"], []),
        ("kubernetes", "job_resources", None, None),
    ],
)
def test_who_launches_an_action_writes_no_program(
    kind: str, field: str, before: list[str] | None, after: list[str] | None, template: str
) -> None:
    program = f"vacuum '{template}'"
    value = program if before is None else [*before, program, *(after or [])]
    said = f"[asyncaction] runners: r: {field}: users who launch an action could inject code here"
    with pytest.raises(ValueError, match=re.escape(said)):
        runners({"name": "r", "kind": kind, field: value})


@pytest.mark.parametrize(
    "options",
    [
        {"cmds": ["sh", "-c"], "args": ["vacuum {{ params.table }}"]},
        {"full_pod_spec": {"spec": {"containers": [{"args": ["sh", "-c", "vacuum {{ params.table }}"]}]}}},
    ],
)
def test_nor_one_of_a_pod(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"r: args: .* could inject code"):
        runners({"name": "r", "kind": "kubernetes", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"command": "vacuum {{ action.type }} {{ ds }} {{ dag_run.run_id }} {{ action['type'] }}"},
        {"command": ["vacuum", "{{ action.arguments.table }}"]},
        {"command": ["sh", "vacuum.sh", "{{ action.arguments.table }}"]},
        {"command": ["sh", "-c", 'vacuum "$1"', "sh", "{{ action.arguments.table }}"]},
        {"command": 'vacuum "$TABLE"', "env": {"TABLE": "{{ params.table }}"}},
    ],
)
def test_what_no_shell_takes_for_program_may_be_an_argument(options: dict[str, Any]) -> None:
    (only,) = runners({**LOCAL, **options})
    assert only.options == options


def test_a_program_that_is_no_template_is_refused() -> None:
    with pytest.raises(ValueError, match="here: command: invalid template: "):
        runners({**LOCAL, "command": "vacuum {{ action.type"})


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two runners are named 'here': rename one"):
        runners(LOCAL, LOCAL)


def test_a_limit_is_a_pool_of_that_many_slots(configure: Configure) -> None:
    configure({**LOCAL, "concurrency_limit": 3}, {**named("other", "x"), "pool": "theirs"})
    assert runner_config.routing_pools() == {"asyncaction_here": 3}


def test_options_are_rendered_once_wherever_strings_are() -> None:
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    action = {"type": "etl", "arguments": {"table": "{{ 6 * 7 }}; rm"}}
    option = {"a": ["{{ action.type }}", {"b": "{{ action.arguments.table }}"}, 3, None], "c": True}
    assert render_option(option, environment, {"action": action}) == {
        "a": ["etl", {"b": "{{ 6 * 7 }}; rm"}, 3, None],
        "c": True,
    }
    with pytest.raises(UndefinedError, match="tabel"):
        render_option("{{ action.arguments.tabel }}", environment, {"action": action})


def test_what_a_path_names_is_imported() -> None:
    assert import_object("json:dumps") is json.dumps
    assert import_object("json.decoder:JSONDecoder.decode") is json.JSONDecoder.decode
    assert import_object("datetime.timedelta") is timedelta
    with pytest.raises(ImportError, match="Module json has no dumbs"):
        import_object("json:dumbs")
    with pytest.raises(ImportError):
        import_object("no.such.Class")


def operator(type_: Any = "etl.load", **kwargs: Any) -> AsyncActionOperator:
    return AsyncActionOperator(task_id="t", type=type_, **kwargs)


def test_queue_and_pool_of_the_runner_are_the_tasks(configure: Configure) -> None:
    configure({**LOCAL, "queue": "big", "concurrency_limit": 2})
    with DAG("routed", schedule=None) as dag:
        operator()
        AsyncActionOperator.partial(task_id="mapped", type="x").expand(arguments=[{}, {}])
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    for task_id in ("t", "mapped"):
        task = cast("Any", stored.get_task(task_id))
        assert (task.queue, task.pool) == ("big", "asyncaction_here")


def test_what_the_author_gives_wins(configure: Configure) -> None:
    configure({**LOCAL, "queue": "big", "pool": "few", "stop_grace": 1, "heartbeat_timeout": 2})
    made = operator(queue="mine", stop_grace=3)
    assert (made.queue, made.pool) == ("mine", "few")
    assert made.stop_grace == timedelta(seconds=3)
    assert made.options.heartbeat_timeout == timedelta(seconds=2)
    with DAG("defaults", schedule=None, default_args={"pool": "theirs", "heartbeat_timeout": 4}) as dag:
        defaulted = operator()
        AsyncActionOperator.partial(task_id="mapped", type="x", queue="mine").expand(arguments=[{}])
    assert (defaulted.queue, defaulted.pool) == ("big", "theirs")
    assert defaulted.options.heartbeat_timeout == timedelta(seconds=4)
    mapped = cast("Any", dag.get_task("mapped"))
    assert (mapped.queue, mapped.pool) == ("mine", "theirs")


def test_a_type_without_runner_is_no_error_of_the_dag(configure: Configure) -> None:
    configure(named("sql", "*.sql"))
    assert (operator().pool, operator().queue) == ("default_pool", "default")


@pytest.mark.parametrize("type_", ["{{ ds }}", "", None, 7])
def test_a_type_is_plain_text(configure: Configure, type_: Any) -> None:
    configure(LOCAL)
    with pytest.raises(ValueError, match=r"type is .*: it must be plain text"):
        operator(type_)


def test_the_runner_is_made_of_rendered_options(configure: Configure, tmp_path: Path) -> None:
    configure({**LOCAL, "command": ["{{ action.type }}", "{{ ds }}"], "cwd": str(tmp_path)})
    with DAG("made", schedule=None, render_template_as_native_obj=True):
        made = operator(output_assets={"model": Asset("model")}, arguments={"n": 1})
    assert isinstance(made.make_runner({"ds": "2026-11-24"}), LocalRunner)
    assert made.outlets == [Asset("model")]


def test_an_option_that_cannot_be_rendered_is_named(configure: Configure) -> None:
    configure({**LOCAL, "command": ["{{ action.arguments.tabel }}"]})
    with DAG("made", schedule=None):
        made = operator(arguments={"table": "orders"})
    with pytest.raises(ValueError, match=r"runners: here: command: .* no attribute 'tabel'"):
        made.make_runner({})


def test_arguments_are_an_object(configure: Configure) -> None:
    configure(LOCAL)
    with DAG("made", schedule=None):
        made = operator(arguments=["orders"])
    with pytest.raises(ValueError, match="arguments is of type list: without service_name it must be"):
        made.make_runner({})


def test_a_call_is_routed_with_its_arguments_by_position(configure: Configure) -> None:
    configure({**LOCAL, "command": ["{{ action.method }}"], "env": {"N": "{{ action.arguments[1] }}"}})
    call = {"service_name": "ShopService", "method": "add", "arguments": [1, "{{ n }}"]}
    with DAG("made", schedule=None):
        made = operator(orchestrator="AsyncService", **call)
    made.render_template_fields({"n": 2})  # type: ignore[typeddict-unknown-key]
    delegate = made._make_delegate(made._choice, {})
    assert isinstance(delegate, LocalActionOperator)
    assert (delegate.command, delegate.env) == (["add"], {"N": "2"})
    spec = delegate.build_spec(delegate.make_runner({}))
    assert (spec.service_name, spec.method, spec.arguments) == ("ShopService", "add", '[1, "2"]')
    assert (spec.orchestrator, spec.require_report) == ("AsyncService", True)


def test_a_runner_names_the_orchestrator_unless_the_author_does(configure: Configure) -> None:
    configure({**LOCAL, "orchestrator": "AsyncService", "require_report": False})
    with DAG("made", schedule=None):
        made = [operator(**CALL), AsyncActionOperator(task_id="own", type="x", orchestrator="Other", **CALL)]
    specs = [
        each.build_spec(each.make_runner({}))
        for each in (one._make_delegate(one._choice, {}) for one in made)
    ]
    assert [spec.orchestrator for spec in specs] == ["AsyncService", "Other"]
    assert [spec.require_report for spec in specs] == [False, False]


def test_a_callable_gets_the_arguments_of_a_call_by_position(configure: Configure) -> None:
    configure({"name": "calls", "kind": "service", "callable": "operator:add"})
    with DAG("made", schedule=None):
        made = operator(arguments=[1, 2], **CALL)
    delegate = made._make_delegate(made._choice, {})
    assert isinstance(delegate, ServiceActionOperator)
    assert delegate.python_callable(*delegate.op_args, **delegate.op_kwargs) == 3


def test_templates_insert_data_into_a_manifest_not_variables(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGION", "eu")
    container = {"name": "${serviceName}", "image": "${image}", "args": ["{{ action.arguments.x }}"]}
    manifest = {"kind": "Pod", "metadata": {"name": "${env.REGION}"}, "spec": {"containers": [container]}}
    configure({"name": "pods", "kind": "kubernetes", "image": "shop:7", "job_resources": manifest})
    with DAG("made", schedule=None):
        made = operator(arguments={"x": "${env.REGION}"})
    delegate = made._make_delegate(made._choice, {})
    assert isinstance(delegate, KubeActionOperator)
    info = JobInfo(job_id=JobId("j"), secret_key="s", hook_url="http://hook")
    pod = parse_manifest(delegate.job_resources, delegate._variables(info))
    only = pod.spec.containers[0]
    assert (pod.metadata.name, only.name, only.image) == ("eu", "pods", "shop:7")
    assert only.args == ["${env.REGION}"]


def test_all_refused_pod_options_are_reported_together(configure: Configure) -> None:
    pod = {"name": "pods", "kind": "kubernetes", "image": "shop:7", "log_events_on_startup": False}
    configure({**pod, "logging_interval": 3, "schedule_timeout_seconds": 5})
    with pytest.raises(ValueError, match="runners: pods: these options are not supported") as caught:
        operator()
    assert "logging_interval: the log is followed" in str(caught.value)
    assert "schedule_timeout_seconds: start_timeout" in str(caught.value)


def test_a_routed_pod_pushes_what_it_reports_and_reads_no_file(configure: Configure) -> None:
    configure({"name": "pods", "kind": "kubernetes", "image": "shop:7"})
    with DAG("made", schedule=None):
        made = [operator(), AsyncActionOperator(task_id="none", type="x", do_xcom_push=False)]
    for each, pushes in zip(made, (True, False), strict=True):
        delegate = each._make_delegate(each._choice, {})
        assert isinstance(delegate, KubeActionOperator)
        assert (delegate.do_xcom_push, delegate.reads_return_file) == (pushes, False)


def test_webdas_operations_need_nothing_in_the_image(configure: Configure) -> None:
    configure({**LOCAL, "env": {"NODE_OPTIONS": "--enable-source-maps {{ webda.node_options }}"}})
    with DAG("made", schedule=None):
        made = operator()
    delegate = made._make_delegate(made._choice, {})
    assert isinstance(delegate, LocalActionOperator)
    heap, loaded = (delegate.env or {})["NODE_OPTIONS"].split(" ")
    assert heap == "--enable-source-maps"
    scheme, _, source = loaded.partition(",")
    assert scheme == "--import=data:text/javascript;base64"
    assert "AsyncJobService.prototype.runOperation" in b64decode(source).decode()


def test_a_deferred_task_needs_the_runner_that_has_its_job(configure: Configure) -> None:
    configure(LOCAL)
    with DAG("resumed", schedule=None):
        made = operator()
    with pytest.raises(
        ValueError, match=r"runners no longer has .pods., with which this task was deferred: restore it"
    ):
        made.resume_execution("resume", {"runner": "pods", "action_id": "x"}, {})


def test_types_are_not_mapped_over(configure: Configure) -> None:
    configure(LOCAL)
    with pytest.raises(TypeError, match="cannot be mapped over types"):
        AsyncActionOperator.partial(task_id="mapped")


def test_a_wrong_configuration_is_an_error_of_the_dag(configure: Configure) -> None:
    configure({**LOCAL, "kind": "locla"})
    with pytest.raises(ValueError, match=re.escape("[asyncaction] runners: here: kind: must be one of")):
        operator()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("jobResources", "did you mean 'job_resources'?"),
        ("arguments", "unknown option"),
        ("service_name", "unknown option"),
        ("callbacks", "unknown option"),
        ("task_id", "unknown option"),
        ("inputs", "unknown option"),
    ],
)
def test_options_of_pods_are_those_of_the_operator(configure: Configure, option: str, said: str) -> None:
    configure({"name": "pods", "kind": "kubernetes", "image": "busybox", "deferrable": True, option: {}})
    with pytest.raises(ValueError, match=re.escape(f"pods: {option}: ")) as raised:
        operator()
    assert said in str(raised.value)


def test_every_plain_pod_option_is_accepted(configure: Configure) -> None:
    options = {
        "image": "busybox",
        "cmds": ["true"],
        "args": ["{{ action.type }}"],
        "namespace": "jobs",
        "env_vars": {"A": "b"},
        "container_resources": {"limits": {"memory": "20Mi"}},
        "job_secret": "env",
        "defer_after": 0,
        "deferrable": True,
        "start_timeout": 60,
        "kubernetes_conn_id": "cluster",
    }
    configure({"name": "pods", "kind": "kubernetes", **options})
    assert operator().options.start_timeout == timedelta(minutes=1)


def test_objects_of_pods_are_written_like_in_a_manifest() -> None:
    options = {
        "volumes": [{"name": "client", "configMap": {"name": "asyncaction"}}],
        "volume_mounts": [{"name": "client", "mountPath": "/client"}],
        "container_resources": {"limits": {"memory": "20Mi"}},
        "tolerations": [{"key": "jobs", "operator": "Exists"}],
        "env_vars": {"A": "b"},
        "labels": {"team": "etl"},
        "cmds": ["true"],
    }
    made = KubeActionOperator(task_id="t", image="busybox", **convert_pod_options(options))
    spec = k8s.ApiClient().sanitize_for_serialization(made.build_pod_request_obj(dry_run=True))["spec"]
    container = spec["containers"][0]
    assert spec["volumes"] == options["volumes"]
    assert spec["tolerations"] == options["tolerations"]
    assert container["volumeMounts"] == options["volume_mounts"]
    assert container["resources"] == options["container_resources"]
    assert container["env"] == [{"name": "A", "value": "b"}]


def test_what_is_no_object_of_pods_is_named() -> None:
    with pytest.raises(ValueError, match=r"volumes is not a valid V1Volume: .*name"):
        convert_pod_options({"volumes": [{"configMap": {"name": "asyncaction"}}]})


@pytest.mark.parametrize(
    ("runner", "codes"),
    [
        ({"kind": "local", "command": "true", "skip_on_exit_code": [3, 99]}, (3, 99)),
        ({"kind": "kubernetes", "image": "i", "skip_on_exit_code": 99}, (99,)),
    ],
)
def test_a_runner_may_have_exit_codes_to_skip_on(
    configure: Configure, runner: dict[str, Any], codes: tuple[int, ...]
) -> None:
    configure({"name": "here", **runner})
    with DAG("made", schedule=None):
        configured, given = operator(), AsyncActionOperator(task_id="own", type="x", skip_on_exit_code=7)
    assert delegate_of(configured).skip_on_exit_code == codes
    assert delegate_of(given).skip_on_exit_code == (7,)


def test_exit_codes_to_skip_on_are_not_for_a_callable_that_happens_to_run_the_action(
    configure: Configure,
) -> None:
    configure({"name": "here", "kind": "service", "callable": "json:dumps"})
    with DAG("made", schedule=None):
        given = operator(skip_on_exit_code=99)
    assert delegate_of(given).skip_on_exit_code == ()


def delegate_of(task: AsyncActionOperator) -> Any:
    return task._make_delegate(task._choice, {})
