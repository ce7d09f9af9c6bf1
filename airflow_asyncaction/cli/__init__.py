# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction ...``. Loaded at each start of Airflow's CLI: imports stay light."""

from __future__ import annotations

import atexit
import sys

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

_CLEANING = {"clean", "export-archived", "drop-archived"}
_NOTHING_DONE = {"--dry-run", "--help", "-h"}

_TO_REVISION = Arg(("--to-revision",), help="Revision to go to, such as 0001; 'base' drops the tables")
_OLDER_THAN = Arg(
    ("--older-than",), type=float, default=24.0, help="Only what is older than so many hours, default 24"
)
_UNHEARD_FOR = Arg(
    ("--unheard-for",),
    type=float,
    default=300.0,
    help="Only those of which nothing was heard for so many seconds, default 300",
)
_DRY_RUN = Arg(("--dry-run",), action="store_true", help="Only say what would be done")
_PODS_IN = Arg(
    ("--pods-in",),
    action="append",
    metavar="NAMESPACE",
    help="Delete the pods in this namespace whose action is over; may be given more than once",
)
_KUBERNETES_CONN_ID = Arg(
    ("--kubernetes-conn-id",),
    default=None,
    help="Connection to the cluster of --pods-in; by default, this one",
)
_CONFIG_FILE = Arg(("--config-file",), default=None, help="The kubeconfig of the cluster of --pods-in")
_YES = Arg(("-y", "--yes"), action="store_true", help="Do not ask")
_UUID = Arg(("uuid",), help="The action's id")
_TYPE = Arg(("--type",), default=None, help="Only actions of this type")
_STATUS = Arg(
    ("--status",),
    action="append",
    default=None,
    help="Only actions with this status, such as RUNNING or ERROR; may be given more than once",
)
_DAG_ID = Arg(("--dag-id",), default=None, help="Only actions of this Dag")
_RUN_ID = Arg(("--run-id",), default=None, help="Only actions of this Dag run")
_SINCE = Arg(
    ("--since",), default=None, help="Only those created at that time or later: ISO 8601, or Unix time in ms"
)
_LIMIT = Arg(("--limit",), type=int, default=50, help="So many at the most, default 50")
_FOLLOW = Arg(("-f", "--follow"), action="store_true", help="Go on until the action has ended")
_OPERATION = Arg(("operation",), help="The operation's id")
_INPUT = Arg(
    ("--input",), default=None, help="Its input, a JSON object; @FILE reads it from a file, @- from stdin"
)
_SCHEDULE = Arg(("--schedule",), default=None, help="When it is to run: ISO 8601, or Unix time in ms")
_IDEMPOTENCY_KEY = Arg(
    ("--idempotency-key",), default=None, help="The same key again gives the same action, and launches none"
)


def get_cli_commands() -> list[CLICommand]:
    """Return the commands, and let ``airflow db clean`` know our tables where it is what runs."""
    if sys.argv[1:2] == ["db"] and _CLEANING.intersection(sys.argv[2:3]):
        from airflow_asyncaction.store.db_manager import register_with_db_clean

        register_with_db_clean()
        if sys.argv[2] == "clean" and not _NOTHING_DONE.intersection(sys.argv):
            atexit.register(_collect_garbage)  # there is nothing that Airflow would call after it
    return [
        GroupCommand(
            name="asyncaction",
            help="Manage async actions",
            subcommands=[
                *_action_commands(),
                _launch_command(),
                _reap_command(),
                GroupCommand(name="db", help="Manage their tables", subcommands=_db_commands()),
                GroupCommand(name="files", help="Manage their files", subcommands=_files_commands()),
            ],
        )
    ]


def _collect_garbage() -> None:
    from airflow_asyncaction.cli.files import collect_garbage

    collect_garbage()


def _action_commands() -> list[ActionCommand]:
    return [
        ActionCommand(
            name="list",
            help="List actions, the newest first",
            func=lazy_load_command("airflow_asyncaction.cli.actions.list_"),
            args=(_TYPE, _STATUS, _DAG_ID, _RUN_ID, _SINCE, _LIMIT, ARG_OUTPUT, ARG_VERBOSE),
        ),
        ActionCommand(
            name="show",
            help="Show all of an action",
            func=lazy_load_command("airflow_asyncaction.cli.actions.show"),
            args=(_UUID, ARG_OUTPUT, ARG_VERBOSE),
        ),
        ActionCommand(
            name="logs",
            help="Print the log lines that an action's job has reported",
            func=lazy_load_command("airflow_asyncaction.cli.actions.logs"),
            args=(_UUID, _FOLLOW, ARG_VERBOSE),
        ),
        ActionCommand(
            name="stop",
            help="Stop an action: ask its job to stop, never launch a job that has not started, and do not"
            " retry a failed action",
            func=lazy_load_command("airflow_asyncaction.cli.actions.stop"),
            args=(_UUID, _YES, ARG_OUTPUT, ARG_VERBOSE),
        ),
    ]


def _launch_command() -> ActionCommand:
    return ActionCommand(
        name="launch",
        help="Launch an operation",
        description="Launch an operation: a Dag with the tag async-operation. Its input is validated, its Dag"
        " run is created, and the action is printed at once.",
        func=lazy_load_command("airflow_asyncaction.cli.launch.launch"),
        args=(_OPERATION, _INPUT, _SCHEDULE, _IDEMPOTENCY_KEY, ARG_OUTPUT, ARG_VERBOSE),
    )


def _reap_command() -> ActionCommand:
    return ActionCommand(
        name="reap",
        help="End unwatched actions now, and delete the pods they have left",
        description="End orphaned actions: their task has ended or is gone, for example because the host of a"
        " worker crashed. The API server also does this by itself ([asyncaction] reap_after). Jobs that"
        " still run are told to stop. With --pods-in, pods whose action has ended are deleted.",
        func=lazy_load_command("airflow_asyncaction.cli.reap.reap"),
        args=(_UNHEARD_FOR, _DRY_RUN, _PODS_IN, _KUBERNETES_CONN_ID, _CONFIG_FILE),
    )


def _files_commands() -> list[ActionCommand]:
    return [
        ActionCommand(
            name="gc",
            help="Remove contents that no action refers to, and what crashes have left",
            description="Remove contents that no action refers to, files that were announced and never came,"
            " and what crashes have left. It may run at any time; 'airflow db clean' runs it at its end.",
            func=lazy_load_command("airflow_asyncaction.cli.files.gc"),
            args=(_OLDER_THAN, _DRY_RUN),
        ),
    ]


def _db_commands() -> list[ActionCommand]:
    return [
        ActionCommand(
            name="check",
            help="Tell the tables' revision, and fail if it is not this release's",
            func=lazy_load_command("airflow_asyncaction.cli.db.check"),
            args=(),
        ),
        ActionCommand(
            name="upgrade",
            help="Create or upgrade the tables, as 'airflow db migrate' does",
            func=lazy_load_command("airflow_asyncaction.cli.db.upgrade"),
            args=(),
        ),
        ActionCommand(
            name="downgrade",
            help="Take migrations back, which 'airflow db downgrade' does not do for providers",
            func=lazy_load_command("airflow_asyncaction.cli.db.downgrade"),
            args=(_TO_REVISION, _YES),
        ),
        ActionCommand(
            name="rotate-keys",
            help="Encrypt all jobs' secrets with the first fernet key: after 'airflow rotate-fernet-key'",
            func=lazy_load_command("airflow_asyncaction.cli.db.rotate_keys"),
            args=(),
        ),
    ]
