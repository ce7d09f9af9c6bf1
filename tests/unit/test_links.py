# SPDX-License-Identifier: Apache-2.0
"""Links: URLs of the button and of the page's tabs, also if Airflow is served below a path."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_asyncaction.links import ActionLink
from airflow_asyncaction.plugins.asyncaction import _views


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("", ""),
        ("/", ""),
        ("/airflow", "/airflow"),
        ("/airflow/", "/airflow"),
        ("https://shop.example", ""),
        ("https://shop.example/", ""),
        ("https://shop.example/data/airflow/", "/data/airflow"),
    ],
)
def test_the_path_of_airflow_is_kept(monkeypatch: pytest.MonkeyPatch, base_url: str, root: str) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    key = SimpleNamespace(dag_id="etl", run_id="a/b", task_id="load", map_index=2)
    url = ActionLink().get_link(cast("Any", None), ti_key=cast("Any", key))
    assert url == f"{root}/dags/etl/runs/a%2Fb/tasks/load/mapped/2/plugin/async_action"
    assert {view["href"].partition("/async/ui/")[0] for view in _views("/async")} == {root}
