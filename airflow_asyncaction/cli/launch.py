# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction launch``: an operation, as by ``PUT /async/{operationId}``."""

from __future__ import annotations

import sys
from argparse import Namespace
from datetime import UTC, datetime
from functools import partial

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.platform import getuser

from airflow_asyncaction.cli.arguments import idempotency_key, json_object, moment, plain_errors
from airflow_asyncaction.cli.output import print_action
from airflow_asyncaction.cli.runs import audited, create_run
from airflow_asyncaction.json_schema.inputs import validate_input
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store import launching, listing, metrics
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.launching import Launch
from airflow_asyncaction.store.operations import Operation, find_operations


@suppress_logs_and_warning
@plain_errors
@audited
def launch(args: Namespace) -> None:
    """Launch an operation, and print its action."""
    metrics.initialise()
    actions = open_services().actions
    operation = _operation(actions, args.operation)
    given = json_object(args.input)
    wanted = Launch(
        operation=operation,
        arguments=validate_input(given, operation.declaration.input, is_linear=operation.is_linear),
        requested_by=getuser(),
        scheduled_at=moment(args.schedule, "--schedule"),
        idempotency_key=idempotency_key(args.idempotency_key),
    )
    action = launching.launch(actions, wanted, partial(create_run, actions, user=wanted.requested_by))
    if operation.is_paused:
        print(f"The Dag {operation.id} is paused: nothing runs before it is not any more", file=sys.stderr)
    print_action(listing.find(actions, action.id).to_json(datetime.now(UTC)), args.output)


def _operation(actions: Actions, operation_id: str) -> Operation:
    found = find_operations(actions, [operation_id])
    if not found:
        raise SystemExit(f"There is no operation {operation_id!r}: a Dag with the tag async-operation is one")
    return found[0]
