# SPDX-License-Identifier: Apache-2.0
"""Reads the secrets of an action from its pod's cluster: a trigger's arguments must not have them."""

from __future__ import annotations

from airflow_asyncaction.runners.pods.spec import PodSecrets, secrets_of
from airflow_asyncaction.triggers.pods.cluster import Cluster, ClusterRefused


async def read_secrets(cluster: Cluster, pod_name: str) -> PodSecrets | None:
    """Return what is needed to speak for the task of a pod; ``None`` if the pod is gone.

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
        return secrets_of(pod or {}, secret)
    except ValueError:
        if refusal is not None:
            raise refusal from None
        return None
