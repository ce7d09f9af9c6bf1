# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction reap``."""

from __future__ import annotations

from argparse import Namespace
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from airflow_asyncaction.exceptions import ActionNotFound
from airflow_asyncaction.files.services import open_services
from airflow_asyncaction.store import reaping


def reap(args: Namespace) -> None:
    """End actions that nobody watches, and print them."""
    if not args.unheard_for >= 0:
        raise SystemExit("--unheard-for must be a number of seconds, 0 or more")
    actions, count = open_services().actions, 0
    older_than = timedelta(seconds=args.unheard_for)
    for action in reaping.find_unwatched(actions, older_than=older_than, now=datetime.now(UTC)):
        count += 1
        where = f"{action.dag_id} {action.run_id} {action.task_id} {action.map_index}"
        said = "would be ended"
        if not args.dry_run:
            with suppress(ActionNotFound):  # it was cleaned away meanwhile
                said = f"ended as {reaping.reap(actions, action, datetime.now(UTC))}"
        print(f"{action.id} of type {action.type} ({where}): {said}")
    print(f"{count} actions were not watched")
