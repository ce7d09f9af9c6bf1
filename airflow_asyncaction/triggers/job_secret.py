# SPDX-License-Identifier: Apache-2.0
"""Reads the secret of a job out of its own cluster: neither a trigger's arguments nor Airflow's have it."""

from __future__ import annotations

from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.runners.pod_spec import secret_of
from airflow_asyncaction.triggers.cluster import Cluster, ClusterRefused
from airflow_asyncaction.triggers.server import Server


async def info_of(cluster: Cluster, server: Server, action_id: str, pod_name: str) -> JobInfo | None:
    """Return what is needed to speak for a job; ``None`` if its pod is gone.

    :raises ClusterError: the cluster does not say
    """
    refusal: ClusterRefused | None = None
    secret, pod = None, None
    try:
        secret = await cluster.secret(pod_name)
    except ClusterRefused as refused:
        refusal = refused  # it may stand in the pod itself
    if secret is None:
        pod = await cluster.pod(pod_name)
        if pod is None:
            return None
    try:
        key = secret_of(pod or {}, secret)
    except ValueError:
        if refusal is not None:
            raise refusal from None
        return None
    return JobInfo(job_id=JobId(action_id), secret_key=key, hook=server.base_url)
