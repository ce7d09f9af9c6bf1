# SPDX-License-Identifier: Apache-2.0
"""Commands ``airflow asyncaction list|show|logs|stop|launch``. They access the metadata database."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from functools import partial

from airflow.exceptions import DagNotFound

from airflow_asyncaction.airflow_internals.server import dag_runs
from airflow_asyncaction.airflow_internals.server.commands import audited, getuser, suppress_logs_and_warning
from airflow_asyncaction.cli.arguments import (
    confirm,
    exit_on_error,
    parse_idempotency_key,
    parse_json_object,
    parse_states,
    parse_time,
)
from airflow_asyncaction.cli.output import Fields, escape_controls, print_action, print_actions, print_line
from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.json_schema.inputs import validate_input
from airflow_asyncaction.protocol.actions import iso_time
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store import audit, launching, listing, metrics, timeline
from airflow_asyncaction.store.audit import AuditEvent
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.filtering import Filter
from airflow_asyncaction.store.launching import Launch, WantedRun
from airflow_asyncaction.store.listing import ActionRecord
from airflow_asyncaction.store.operations import Operation, find_operations

_PAGE = 200
_FOLLOW_SECONDS = 1.0
# An action whose exit nobody reports is never done. Stop waiting for its lines after this time.
_LINGER = timedelta(seconds=30)
_METHOD = "CLI"
"""Recorded in the audit log in place of an HTTP method."""


@suppress_logs_and_warning
@exit_on_error
def list_(args: Namespace) -> None:
    """Print the newest actions."""
    if args.limit < 1:
        raise SystemExit("--limit must be 1 or more")
    wanted = Filter(
        type=args.type,
        states=parse_states(args.status),
        dag_id=args.dag_id,
        run_id=args.run_id,
        since=parse_time(args.since, "--since"),
    )
    print_actions(_list_actions(open_services().database, wanted, args.limit), args.output)


@suppress_logs_and_warning
@exit_on_error
def show(args: Namespace) -> None:
    """Print one action."""
    found = listing.find(open_services().database, args.uuid)
    print_action(found.to_json(datetime.now(UTC)), args.output)


@suppress_logs_and_warning
@exit_on_error
def logs(args: Namespace) -> None:
    """Print the log lines of an action. With --follow, continue until the action has ended."""
    database = open_services().database
    action = listing.find(database, args.uuid)
    last_line = _print_lines(database, action.id, 0)
    while args.follow and not _has_ended(action):
        time.sleep(_FOLLOW_SECONDS)
        # Read the action before its lines, so that none are missed after the end.
        action = listing.find(database, args.uuid, short=True)
        last_line = _print_lines(database, action.id, last_line)


@suppress_logs_and_warning
@exit_on_error
@audited
def stop(args: Namespace) -> None:
    """Stop an action."""
    metrics.initialize()
    actions = open_services().actions
    action = listing.find(actions.database, args.uuid)
    row = action.row
    description = escape_controls(f"{row.type} of {row.dag_id} {row.run_id} {row.task_id}")
    if not args.yes and not confirm(f"Stop action {action.id}, {description}?"):
        raise SystemExit("Nothing was changed")
    stopped = launching.stop(
        actions, action, requested_by=getuser(), method=_METHOD, fail_run=_fail_run, fail_task=_fail_task
    )
    print_action(stopped.to_json(datetime.now(UTC)), args.output)


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
        services.actions, wanted, partial(_create_run, services.database, user=wanted.requested_by)
    )
    if operation.is_paused:
        print(f"The Dag {operation.id} is paused. Nothing runs until you unpause it", file=sys.stderr)
    print_action(listing.find(services.database, action.id).to_json(datetime.now(UTC)), args.output)


def _list_actions(database: Database, wanted: Filter, limit: int) -> list[Fields]:
    found: list[Fields] = []
    before, now = None, datetime.now(UTC)
    while len(found) < limit:
        page = listing.list_actions(database, wanted, limit=min(_PAGE, limit - len(found)), before=before)
        found += [action.to_short_json(now) for action in page.actions]
        before = page.next
        if before is None:
            break
    return found


def _print_lines(database: Database, action_id: JobId, after: int) -> int:
    """Print the lines after a number, and return the number of the last line."""
    while True:
        page = timeline.read_logs(database, action_id, after)
        if page.lines and page.first_line > after + 1:
            print(f"... {page.first_line - after - 1} lines were dropped ...")
        for line in page.lines:
            print_line(line, _written_at(line.time_ms))
        after = max(after, page.last_line)
        if not page.has_more:
            return after


def _written_at(time_ms: int | None) -> str | None:
    if time_ms is None:
        return None
    try:
        return iso_time(datetime.fromtimestamp(time_ms / 1000, UTC))
    except (ValueError, OverflowError, OSError):  # jobs may send any number
        return None


def _has_ended(action: ActionRecord) -> bool:
    ended_at = action.row.ended_at
    return action.is_done or (ended_at is not None and datetime.now(UTC) - ended_at > _LINGER)


def _find_operation(database: Database, operation_id: str) -> Operation:
    found = find_operations(database, [operation_id])
    if not found:
        raise SystemExit(
            f"The operation {operation_id!r} does not exist. Operations are Dags with the tag async-operation"
        )
    return found[0]


def _create_run(database: Database, run: WantedRun, *, user: str) -> None:
    """Create a Dag run unless it exists, and record it in Airflow's audit log.

    :param user: name of the user who launches it
    :raises UserRefused: Airflow refuses; the message contains its reason
    """
    try:
        is_new = dag_runs.create_if_missing(
            dag_id=run.dag_id, run_id=run.run_id, conf=run.conf, run_after=run.run_after, user=user
        )
    except (DagNotFound, ValueError) as error:  # invalid Params raise ValueError, too
        raise UserRefused(f"Airflow refused to create the Dag run: {error}", code="run_refused") from error
    if not is_new:
        return
    audited_run = AuditEvent(
        event=audit.TRIGGER,
        owner=user,
        dag_id=run.dag_id,
        run_id=run.run_id,
        extra={"method": _METHOD},
    )
    with database.transaction() as connection:
        audit.record(connection, audited_run, datetime.now(UTC))


def _fail_run(action: ActionRecord) -> None:
    """Mark the Dag run of an action as failed, if it exists."""
    dag_runs.mark_failed(action.dag_id, action.row.run_id)


def _fail_task(action: ActionRecord) -> None:
    """Mark the task instance of an action as failed, if it exists, so that it is not retried."""
    row = action.row
    dag_runs.mark_task_failed(
        row.dag_id, row.run_id, row.task_id, map_index=row.map_index, iteration=row.iteration
    )
