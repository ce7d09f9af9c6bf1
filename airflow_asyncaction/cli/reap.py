# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction reap``: actions that nobody watches, and pods whose action is over."""

from __future__ import annotations

from argparse import Namespace
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from airflow_asyncaction.cli.runs import audited
from airflow_asyncaction.exceptions import ActionNotFound
from airflow_asyncaction.files.services import open_services
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store import metrics, reaping
from airflow_asyncaction.store.actions import Actions


@audited
def reap(args: Namespace) -> None:
    """End actions that nobody watches, and print them."""
    if not args.unheard_for >= 0:
        raise SystemExit("--unheard-for must be a number of seconds, 0 or more")
    metrics.initialise()
    actions, count = open_services().actions, 0
    older_than = timedelta(seconds=args.unheard_for)
    for action in reaping.find_unwatched(actions, older_than=older_than, now=datetime.now(UTC)):
        count += 1
        where = f"{action.dag_id} {action.run_id} {action.task_id} {action.map_index}"
        said = "would be ended"
        if not args.dry_run:
            with suppress(ActionNotFound):  # it was cleaned away meanwhile
                said = _reap(actions, action.id)
        print(f"{action.id} of type {action.type} ({where}): {said}")
    print(f"{count} actions were not watched")
    for namespace in args.pods_in or ():
        _reap_pods(args, namespace, actions, older_than)


def _reap(actions: Actions, action_id: JobId) -> str:
    action = reaping.reap_if_unwatched(actions, action_id, datetime.now(UTC)).after
    return f"ended as {action.state}" if action.is_done else "is watched again"


def _reap_pods(args: Namespace, namespace: str, actions: Actions, older_than: timedelta) -> None:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from airflow_asyncaction.runners.left_pods import delete_pod, job_pods

    hook = KubernetesHook(conn_id=args.kubernetes_conn_id, config_file=args.config_file)
    pods, count = list(job_pods(hook.core_v1_client, namespace)), 0
    ids = [pod.action_id for pod in pods]
    over = reaping.find_over(actions, ids, older_than=older_than, now=datetime.now(UTC))
    for pod in (pod for pod in pods if pod.action_id in over and pod.is_left):
        count += 1
        if not args.dry_run:
            delete_pod(hook.core_v1_client, pod)
        print(f"pod {namespace}/{pod.name} of action {pod.action_id}: {'would be ' * args.dry_run}deleted")
    print(f"{count} of {len(pods)} pods in {namespace} were left over")
