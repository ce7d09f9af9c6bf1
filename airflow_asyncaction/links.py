# SPDX-License-Identifier: Apache-2.0
"""Operator extra link: a button on a task instance in Airflow's UI that opens its action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

TAB = "async_action"
"""``url_route`` of the tab that shows the action of a task instance."""


class ActionLink(BaseOperatorLink):
    """Link to the tab of a task instance that shows its action."""

    name = "Async action"

    def push(self, context: Any) -> None:
        """Push the URL before the task is deferred: its end may not involve a worker."""
        ti = context["ti"]
        ti.xcom_push(key=self.xcom_key, value=_url(ti) + _region(ti))

    @property
    def xcom_key(self) -> str:
        """Key of the XCom that holds the URL."""
        return "async_action_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL as a path: the browser adds the host at which it reached Airflow."""
        return _url(ti_key)


def _region(ti: Any) -> str:
    """Return the query with which Airflow 3.4 finds a task instance that is mapped or in a loop."""
    region_id = getattr(ti, "region_id", None)
    if not region_id or not region_id.int:
        return ""
    return "?" + urlencode({"region_id": region_id, "region_index": ti.region_index})


def airflow_root() -> str:
    """Return the path of ``[api] base_url``, without a trailing slash."""
    from airflow.configuration import conf

    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


def _url(ti: Any) -> str:
    """Return the URL for a task instance or its key."""
    parts = {"dags": ti.dag_id, "runs": ti.run_id, "tasks": ti.task_id}
    path = "/".join(f"{kind}/{quote(name, safe='')}" for kind, name in parts.items())
    mapped = "" if ti.map_index is None or ti.map_index < 0 else f"/mapped/{ti.map_index}"
    return f"{airflow_root()}/{path}{mapped}/plugin/{TAB}"
