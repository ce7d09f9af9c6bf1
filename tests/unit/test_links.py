# SPDX-License-Identifier: Apache-2.0
"""URLs of the extra link and of the page's tabs, if Airflow's base URL has a path."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

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


@pytest.mark.parametrize(
    ("region", "query"),
    [
        ({}, ""),  # Airflow 3.3
        ({"region_id": UUID(int=0), "region_index": -1}, ""),
        ({"region_id": UUID(int=7), "region_index": 3}, f"?region_id={UUID(int=7)}&region_index=3"),
    ],
)
def test_a_link_leads_to_the_iteration_of_a_loop(region: dict[str, Any], query: str) -> None:
    pushed: dict[str, str] = {}
    place = {"dag_id": "etl", "run_id": "r", "task_id": "poll", "map_index": -1}
    ti = SimpleNamespace(**place, **region, xcom_push=lambda key, value: pushed.update({key: value}))
    ActionLink().push({"ti": ti})
    assert pushed == {"async_action_link": f"/dags/etl/runs/r/tasks/poll/plugin/async_action{query}"}
