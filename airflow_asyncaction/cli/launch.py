# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction launch``: an operation, as by ``PUT /async/{operationId}``."""

from __future__ import annotations

import sys
from argparse import Namespace
from datetime import UTC, datetime
from functools import partial

from airflow_asyncaction.airflow_internals.server.commands import (
    audited,
    getuser,
    suppress_logs_and_warning,
)
from airflow_asyncaction.cli.arguments import idempotency_key, json_object, moment, plain_errors
from airflow_asyncaction.cli.output import print_action
from airflow_asyncaction.cli.runs import create_run
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store import launching, listing, metrics
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.launching import Launch
from airflow_asyncaction.store.operations import Operation, find_operations
from airflow_asyncaction.web.query import checked_input


@suppress_logs_and_warning
@plain_errors
@audited
def launch(args: Namespace) -> None:
    """Launch an operation, and print its action."""
    metrics.initialize()
    services = open_services()
    operation = _operation(services.database, args.operation)
    given = json_object(args.input)
    wanted = Launch(
        operation=operation,
        arguments=checked_input(given, operation.declaration.input, is_linear=operation.is_linear),
        requested_by=getuser(),
        scheduled_at=moment(args.schedule, "--schedule"),
        idempotency_key=idempotency_key(args.idempotency_key),
    )
    action = launching.launch(
        services.actions, wanted, partial(create_run, services.database, user=wanted.requested_by)
    )
    if operation.is_paused:
        print(f"The Dag {operation.id} is paused: nothing runs before it is not any more", file=sys.stderr)
    print_action(listing.find(services.database, action.id).to_json(datetime.now(UTC)), args.output)


def _operation(database: Database, operation_id: str) -> Operation:
    found = find_operations(database, [operation_id])
    if not found:
        raise SystemExit(f"There is no operation {operation_id!r}: a Dag with the tag async-operation is one")
    return found[0]
