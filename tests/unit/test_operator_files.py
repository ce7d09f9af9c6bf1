# SPDX-License-Identifier: Apache-2.0
"""Inputs and output assets: valid values, and errors about others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, ObjectStoragePath

from airflow_asyncaction.decorators import async_action, async_action_local
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators import LocalActionOperator
from airflow_asyncaction.operators.base import BaseActionOperator
from airflow_asyncaction.operators.files import (
    add_event_extras,
    attach_inputs,
    check_inputs,
    group_by_property,
    push_files,
    resolve_input,
)
from airflow_asyncaction.protocol.files import FileReference

RECORD: dict[str, Any] = {
    "name": "model.bin",
    "property": "model",
    "index": 0,
    "size": 3,
    "mimetype": "application/octet-stream",
    "md5": "0" * 32,
    "sha256": "1" * 64,
    "store": "default",
    "uri": "file:///x",
    "metadata": {},
    "action": "01a20d90-0000-7000-8000-000000000000",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three files, one of them in a subfolder."""
    (tmp_path / "b.csv").write_text("b")
    (tmp_path / "a.csv").write_text("a")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.sh").write_text("c")
    return tmp_path


def names(given: Any) -> list[str]:
    return [each.name for each in resolve_input("data", given) if not isinstance(each, FileReference)]


def test_a_file_can_be_specified_by_its_path(folder: Path) -> None:
    path = folder / "a.csv"
    for given in (path, str(path), path.as_uri(), ObjectStoragePath(path.as_uri())):
        assert names(given) == ["a.csv"]
    spaced = path.rename(folder / "a b%.csv")
    for given in (spaced, str(spaced), spaced.as_uri()):
        assert names(given) == ["a b%.csv"]


def test_a_folder_is_all_its_files_in_order(folder: Path) -> None:
    for given in (folder, str(folder), f"{folder}/", folder.as_uri(), ObjectStoragePath(folder.as_uri())):
        assert names(given) == ["a.csv", "b.csv", "deep/c.sh"]


def test_lists_may_be_nested_and_mixed(folder: Path) -> None:
    assert names([folder / "b.csv", (str(folder / "a.csv"), [folder / "deep"])]) == ["b.csv", "a.csv", "c.sh"]


def test_what_another_job_has_left_is_linked() -> None:
    reference = FileReference(RECORD["action"], "model", 0, "1" * 64)
    assert list(resolve_input("data", RECORD)) == [reference]
    assert list(resolve_input("data", [[RECORD], [RECORD]])) == [reference, reference]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "inputs['data'] is None: the upstream task has no such output file"),
        ("data.csv", "inputs['data'] is the relative path 'data.csv': use an absolute path or a URL"),
        (17, "inputs['data'] is of type int"),
        ({"name": "x"}, "inputs['data'] is not a file of an action"),
        ({**RECORD, "sha256": "no"}, "inputs['data'] is not a file of an action"),
        ({**RECORD, "index": -1}, "inputs['data'] is not a file of an action"),
    ],
)
def test_what_cannot_be_an_input_is_named(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("[", r"\[").replace("]", r"\]")):
        list(resolve_input("data", given))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        list(resolve_input("data", tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no files"):
        list(resolve_input("data", tmp_path / "empty"))


def test_a_name_that_no_file_of_a_job_may_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\\b").write_text("x")
    with pytest.raises(ValueError, match="is not a valid file name"):
        list(resolve_input("data", tmp_path))


@pytest.mark.parametrize("inputs", [{"1st": "/x"}, {"a-b": "/x"}, {"": "/x"}, {"x" * 65: "/x"}])
def test_names_of_inputs_are_checked(inputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"inputs: .* is not a valid name"):
        check_inputs(inputs)


def test_inputs_must_be_a_mapping() -> None:
    with pytest.raises(ValueError, match="must be a mapping"):
        check_inputs(["/x"])  # type: ignore[arg-type]


def test_without_inputs_the_server_gets_no_request() -> None:
    attach_inputs(TaskHook("http://127.0.0.1:9"), SimpleNamespace(hook=""), {}, store="default")  # type: ignore[arg-type]


def test_outputs_are_grouped_by_property() -> None:
    files = [{"property": "b", "index": 0}, {"property": "b", "index": 1}, {"property": "a", "index": 0}]
    assert group_by_property(files) == {"b": files[:2], "a": files[2:]}


def test_xcoms_are_pushed_under_files_and_each_property() -> None:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
    push_files(ti, {})
    assert pushed == {}
    files = {"model": [RECORD], "return_value": [RECORD], "action_id": [RECORD]}
    push_files(ti, files)
    assert pushed == {"files": files, "model": [RECORD]}


def test_assets_of_outputs_are_outlets() -> None:
    given, one, other = Asset("given"), Asset("one"), Asset("other")
    operator = LocalActionOperator(
        task_id="t", command="true", outlets=[given, one], output_assets={"a": one, "b": other}
    )
    assert operator.outlets == [given, one, other]


def test_what_is_no_asset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"output_assets\['a'\] must be an Asset"):
        LocalActionOperator(task_id="t", command="true", output_assets={"a": "s3://x"})
    with pytest.raises(ValueError, match="output_assets: 'a-b' is not a valid name"):
        LocalActionOperator(task_id="t", command="true", output_assets={"a-b": Asset("x")})


def test_an_asset_whose_file_was_not_left_is_not_updated() -> None:
    left, not_left = Asset("left"), Asset("not_left")
    operator = LocalActionOperator(
        task_id="t", command="true", output_assets={"model": left, "nothing": not_left}
    )
    events = {asset: SimpleNamespace(extra={}) for asset in (left, not_left)}
    add_event_extras(operator, {"outlet_events": events}, operator.output_assets, {"model": [RECORD]})
    assert operator.outlets == [left]
    assert events[left].extra == RECORD
    assert events[not_left].extra == {}


def test_decorated_functions_take_inputs_and_assets() -> None:
    asset = Asset("counts")

    with DAG("decorated", schedule=None) as dag:

        @async_action(inputs={"data": "/data/{{ ds }}.csv"}, output_assets={"counts": asset})
        def count() -> None:
            """Count."""

        @async_action_local(inputs={"data": Path("/data")})
        def run() -> str:
            """Run."""
            return "true"

        count()
        run()

    called, ran = dag.get_task("count"), dag.get_task("run")
    assert isinstance(called, BaseActionOperator)
    assert isinstance(ran, BaseActionOperator)
    assert {"inputs", "arguments"} <= {*called.template_fields} & {*ran.template_fields}
    called.render_template_fields({"ds": "2026-01-01"})
    assert called.inputs == {"data": "/data/2026-01-01.csv"}
    assert called.outlets == [asset]
    assert ran.inputs == {"data": Path("/data")}
