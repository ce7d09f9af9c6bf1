# SPDX-License-Identifier: Apache-2.0
"""The button of a task in Airflow's UI that leads to its action."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

TAB = "async_action"
"""Route of the page's tab in Airflow's UI."""


class ActionLink(BaseOperatorLink):
    """Leads to the tab of the task instance that shows its action."""

    name = "Async action"

    @property
    def xcom_key(self) -> str:
        """Where the worker leaves the URL."""
        return "async_action_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the path below Airflow's own: the host is the one at which people have Airflow."""
        from airflow.configuration import conf

        root = "/" + conf.get("api", "base_url", fallback="").partition("://")[2].partition("/")[2]
        parts = {"dags": ti_key.dag_id, "runs": ti_key.run_id, "tasks": ti_key.task_id}
        path = "/".join(f"{kind}/{quote(name, safe='')}" for kind, name in parts.items())
        mapped = "" if ti_key.map_index < 0 else f"/mapped/{ti_key.map_index}"
        return f"{root.rstrip('/')}/{path}{mapped}/plugin/{TAB}"
