# SPDX-License-Identifier: Apache-2.0
"""Operation inputs that once blocked the API server, sent to a real server through each route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import requests
from airflow.sdk import DAG, BaseOperator, Param

from airflow_asyncaction.dags import async_operation
from airflow_asyncaction.json_schema.dialect import with_dialect
from airflow_asyncaction.operators import LocalActionOperator
from airflow_asyncaction.protocol.operations import TAG
from tests.integration.access_scene import KINDS
from tests.integration.airflow_server import AirflowServer, airflow_server
from tests.integration.databases import Database
from tests.integration.stored_dags import store_dag

pytestmark = pytest.mark.integration

P = 2**61 - 1
"""``hash(k * P)`` is 0 for each k."""
NODE = {"$ref": "#/$defs/node"}
MAIL = {"type": "string", "pattern": "^([a-zA-Z0-9]+)*@x$"}
IDS = {"type": "array", "uniqueItems": True}
SCHEMA = {
    "properties": {"mail": MAIL, "ids": IDS, "tree": NODE},
    "$defs": {
        "node": {
            "anyOf": [
                {"type": "object", "properties": {"a": NODE, "b": NODE}},
                {"type": "object", "properties": {"a": NODE}, "required": ["none"]},
                {"type": "null"},
            ]
        }
    },
}
CPU_SECONDS = 120
"""After which the kernel kills the server: more than all inputs take, less than one of them took."""


def tree(levels: int, *names: str, leaf: Any = None) -> Any:
    for _ in range(levels):
        leaf = dict.fromkeys(names, leaf)
    return leaf


INPUTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "integers of one hash": ({"ids": [k * P for k in range(9_000)]}, "$.ids[9]"),
    "integers": ({"ids": list(range(9_000))}, None),
    "objects": ({"ids": [{"k": k} for k in range(4_000)]}, None),
    "nested quantifiers": ({"mail": "a" * 40 + "!"}, "$.mail"),
    "2^12 nodes": ({"tree": tree(12, "a", "b")}, None),
    "50,000 integers": ({"ids": list(range(50_000))}, "$"),
    "deep and wrong": ({"tree": tree(60, "a", leaf="no")}, "$.tree"),
    "60,000 keys": ({f"k{k}": k for k in range(60_000)}, "$"),
    "2**70": ({"ids": [2**70]}, "$.ids[0]"),
}


def _dags() -> Iterator[DAG]:
    yield async_operation(id="typed", input=SCHEMA)
    params = {
        "mail": Param(None, schema={**MAIL, "type": ["string", "null"]}),
        "ids": Param(None, schema={**IDS, "type": ["array", "null"]}),
    }
    with DAG("tagged", schedule=None, tags=[TAG], params=params) as tagged:
        LocalActionOperator(task_id="go", command="true")
    yield tagged
    for dag_id, names in (("foreign", ["ids"]), ("foreign_pattern", ["ids", "mail"])):
        foreign = {name: params[name] for name in names}
        with DAG(dag_id, schedule=None, tags=[TAG], params=foreign) as dag:
            BaseOperator(task_id="go")
        yield dag
    linear = {name: Param(None, schema=with_dialect(param.schema)) for name, param in params.items()}
    with DAG("foreign_linear", schedule=None, tags=[TAG], params=linear) as dag:
        BaseOperator(task_id="go")
    yield dag


@pytest.fixture(scope="module")
def server(
    migrated: Callable[[str], Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowServer]:
    log = tmp_path_factory.mktemp("server") / "log"
    passwords = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(log.with_name("passwords.json"))}
    with migrated("postgresql").in_use() as database:
        for dag in _dags():
            dag.relative_fileloc = f"{dag.dag_id}.py"
            store_dag(database.engine, dag)
        with airflow_server(log, environ={**KINDS["simple"], **passwords}) as server:
            process = psutil.Process(server.pid)
            limit = int(sum(process.cpu_times()[:2])) + CPU_SECONDS
            process.rlimit(psutil.RLIMIT_CPU, (limit, limit))
            yield server


def sent(server: AirflowServer, method: str, path: str, body: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {server.tokens['user']}"}
    return requests.request(method, server.url + path, json=body, headers=headers, timeout=600)


def test_an_input_costs_the_server_no_more_than_its_size(server: AirflowServer) -> None:
    for name, (fields, path) in INPUTS.items():
        answer = sent(server, "PUT", "/async/typed", fields)
        if path is None:
            assert answer.status_code == 202, (name, answer.text)
        else:
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_input"), name
            assert answer.json()["path"].startswith(path), (name, answer.text)
            assert len(answer.content) < 2_000, name


@pytest.mark.parametrize("dag_id", ["typed", "tagged"])
def test_airflows_own_route_costs_no_more_either(server: AirflowServer, dag_id: str) -> None:
    for name, (fields, path) in INPUTS.items():
        if name == "60,000 keys" or ("tree" in fields and dag_id == "tagged"):
            continue  # Airflow makes a Param of each name in a conf, of any Dag; the tagged one has no tree
        body = {"logical_date": None, "conf": fields}
        answer = sent(server, "POST", f"/api/v2/dags/{dag_id}/dagRuns", body)
        assert answer.status_code == (200 if path is None else 400), (name, answer.text)
        if path is not None:
            assert "Invalid input for param" in answer.json()["detail"], (name, answer.text)


def test_a_dag_whose_params_airflow_validates_takes_small_inputs(server: AirflowServer) -> None:
    objects = {"ids": [{"k": k} for k in range(4_000)]}
    assert sent(server, "PUT", "/async/foreign", {"ids": list(range(900))}).status_code == 202
    refused = sent(server, "PUT", "/async/foreign", objects)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_input")
    assert "more than 1,000 values" in refused.json()["message"]
    refused = sent(server, "PUT", "/async/foreign_pattern", {"mail": "ann@x"})
    assert (refused.status_code, refused.json()["error"]) == (500, "bad_schema")
    for dag_id in ("tagged", "foreign_linear"):
        assert sent(server, "PUT", f"/async/{dag_id}", {**objects, "mail": "ann@x"}).status_code == 202
