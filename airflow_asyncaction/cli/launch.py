# SPDX-License-Identifier: Apache-2.0
"""Command ``airflow asyncaction launch``: launches an operation, like ``PUT /async/{operationId}``."""

from __future__ import annotations

import sys
from argparse import Namespace
from datetime import UTC, datetime
from functools import partial

from airflow_asyncaction.airflow_internals.server.commands import audited, getuser, suppress_logs_and_warning
from airflow_asyncaction.cli.arguments import (
    exit_on_error,
    parse_idempotency_key,
    parse_json_object,
    parse_time,
)
from airflow_asyncaction.cli.output import print_action
from airflow_asyncaction.cli.runs import create_run
from airflow_asyncaction.json_schema.inputs import validate_input
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store import launching, listing, metrics
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.launching import Launch
from airflow_asyncaction.store.operations import Operation, find_operations


@suppress_logs_and_warning
@exit_on_error
@audited
def launch(args: Namespace) -> None:
    """Launch an operation, and print its action."""
    metrics.initialize()
    services = open_services()
    operation = _find_operation(services.database, args.operation)
    fields = parse_json_object(args.input)
    wanted = Launch(
        operation=operation,
        arguments=validate_input(fields, operation.declaration.input, is_linear=operation.is_linear),
        requested_by=getuser(),
        scheduled_at=parse_time(args.schedule, "--schedule"),
        idempotency_key=parse_idempotency_key(args.idempotency_key),
    )
    action = launching.launch(
        services.actions, wanted, partial(create_run, services.database, user=wanted.requested_by)
    )
    if operation.is_paused:
        print(f"The Dag {operation.id} is paused. Nothing runs until you unpause it", file=sys.stderr)
    print_action(listing.find(services.database, action.id).to_json(datetime.now(UTC)), args.output)


def _find_operation(database: Database, operation_id: str) -> Operation:
    found = find_operations(database, [operation_id])
    if not found:
        raise SystemExit(
            f"The operation {operation_id!r} does not exist. Operations are Dags with the tag async-operation"
        )
    return found[0]
