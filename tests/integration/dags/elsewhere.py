# SPDX-License-Identifier: Apache-2.0
"""Sends requests to the task's own server at the hook URL of local jobs, and at that of jobs elsewhere."""

from __future__ import annotations

import os

import requests
from airflow.sdk import DAG, task

from airflow_asyncaction.hooks.in_process import hook_url, remote_hook_url

with DAG("elsewhere", schedule=None) as dag:

    @task
    def ask() -> dict[str, str]:
        urls = (hook_url(), remote_hook_url())
        return {
            url.rpartition(":")[0]: requests.get(f"{url}/job", timeout=10).json()["error"] for url in urls
        }

    ask()

if __name__ == "__main__":
    os.environ["AIRFLOW__ASYNCACTION__TEST_HOST"] = "127.0.0.2"
    dag.test()
