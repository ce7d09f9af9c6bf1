# SPDX-License-Identifier: Apache-2.0
"""Command ``airflow asyncaction reap``: ends orphaned actions, and deletes pods whose action has ended."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta

from airflow_asyncaction.airflow_internals.server.commands import audited
from airflow_asyncaction.exceptions import ActionNotFound
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store import metrics, reaping
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.database import Database

_ADOPTED, _DELETED = "no longer orphaned", "deleted in the meantime"


@audited
def reap(args: Namespace) -> None:
    """End orphaned actions, and print them."""
    if not args.unheard_for >= 0:
        raise SystemExit("--unheard-for must be a number of seconds, 0 or more")
    metrics.initialize()
    actions = open_services().actions
    ended: set[JobId] = set()
    older_than, count = timedelta(seconds=args.unheard_for), 0
    for action in reaping.find_unwatched(actions.database, older_than=older_than, now=datetime.now(UTC)):
        count += 1
        task = f"{action.dag_id} {action.run_id} {action.task_id} {action.map_index}"
        state = "would be ended" if args.dry_run else _reap(actions, action.id)
        if state not in (_ADOPTED, _DELETED):
            ended.add(action.id)
        print(f"{action.id} of type {action.type} ({task}): {state}")
    print(f"Found {count} orphaned actions")
    for namespace in args.pods_in or ():
        _reap_pods(args, namespace, actions.database, older_than, ended)


def _reap(actions: Actions, action_id: JobId) -> str:
    try:
        action = reaping.reap_if_unwatched(actions, action_id, datetime.now(UTC)).after
    except ActionNotFound:
        return _DELETED
    return f"ended as {action.state}" if action.is_done else _ADOPTED


def _reap_pods(
    args: Namespace, namespace: str, database: Database, older_than: timedelta, ended: AbstractSet[JobId]
) -> None:
    """Delete the pods and Secrets of actions that have ended, now or earlier."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from airflow_asyncaction.runners.pods.api import PodApi
    from airflow_asyncaction.runners.pods.api_requests import PodRequests
    from airflow_asyncaction.runners.pods.orphaned_pods import list_job_pods

    hook = KubernetesHook(conn_id=args.kubernetes_conn_id, config_file=args.config_file)
    api, requests = PodApi(hook.core_v1_client), PodRequests(namespace)
    pods, count = list(list_job_pods(api, requests)), 0
    ids = [pod.action_id for pod in pods]
    over = ended | reaping.find_done(database, ids, older_than=older_than, now=datetime.now(UTC))
    outcome = "would be deleted" if args.dry_run else "deleted"
    for pod in (pod for pod in pods if pod.action_id in over):
        name = f"{namespace}/{pod.name} of action {pod.action_id}"
        if pod.should_be_deleted:
            count += 1
            if not args.dry_run:
                api.send_once(requests.delete_pod(pod.name, pod.uid))
            print(f"pod {name}: {outcome}")
        if api.send_once(requests.read_secret(pod.name)) is not None:
            if not args.dry_run:
                api.send_once(requests.delete_secret(pod.name))
            print(f"Secret {name}: {outcome}")
    print(f"{count} of {len(pods)} pods in {namespace} were orphaned")
