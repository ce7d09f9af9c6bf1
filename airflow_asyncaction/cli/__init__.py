# SPDX-License-Identifier: Apache-2.0
"""Commands ``airflow asyncaction ...``: their definitions, loaded whenever Airflow's CLI starts."""

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

_CLEAN_COMMANDS = {"clean", "export-archived", "drop-archived"}
_READ_ONLY_OPTIONS = {"--dry-run", "--help", "-h"}

_TO_REVISION = Arg(("--to-revision",), help="Revision to downgrade to, such as 0001. 'base' drops the tables")
_OLDER_THAN = Arg(
    ("--older-than",), type=float, default=24.0, help="Minimum age of what is removed, in hours (default: 24)"
)
_UNHEARD_FOR = Arg(
    ("--unheard-for",),
    type=float,
    default=300.0,
    help="Only end actions without a sign of life for this many seconds (default: 300)",
)
_DRY_RUN = Arg(("--dry-run",), action="store_true", help="Only print what would be done")
_PODS_IN = Arg(
    ("--pods-in",),
    action="append",
    metavar="NAMESPACE",
    help="Delete the pods in this namespace whose action has ended. Can be repeated",
)
_KUBERNETES_CONN_ID = Arg(
    ("--kubernetes-conn-id",),
    default=None,
    help="Connection to the cluster of --pods-in (default: the cluster that runs this command)",
)
_CONFIG_FILE = Arg(("--config-file",), default=None, help="Kubeconfig file of the cluster of --pods-in")
_YES = Arg(("-y", "--yes"), action="store_true", help="Do not ask for confirmation")
_UUID = Arg(("uuid",), help="UUID of the action")
_TYPE = Arg(("--type",), default=None, help="Only actions of this type")
_STATUS = Arg(
    ("--status",),
    action="append",
    default=None,
    help="Only actions with this status, such as RUNNING or ERROR. Can be repeated",
)
_DAG_ID = Arg(("--dag-id",), default=None, help="Only actions of this Dag")
_RUN_ID = Arg(("--run-id",), default=None, help="Only actions of this Dag run")
_SINCE = Arg(
    ("--since",),
    default=None,
    help="Only actions created since this time: ISO 8601, or Unix time in ms",
)
_LIMIT = Arg(("--limit",), type=int, default=50, help="Maximum number of actions (default: 50)")
_FOLLOW = Arg(("-f", "--follow"), action="store_true", help="Keep printing lines until the action has ended")
_OPERATION = Arg(("operation",), help="Id of the operation")
_INPUT = Arg(
    ("--input",), default=None, help="Input as a JSON object. @FILE reads it from a file, @- from stdin"
)
_SCHEDULE = Arg(("--schedule",), default=None, help="When to run it: ISO 8601, or Unix time in ms")
_IDEMPOTENCY_KEY = Arg(
    ("--idempotency-key",), default=None, help="A repeated key returns the same action and launches nothing"
)
_HOST = Arg(("-H", "--host"), default="0.0.0.0", help="Address to listen at (default: 0.0.0.0)")  # noqa: S104
_PORT = Arg(("-p", "--port"), type=int, default=8081, help="Port to listen at (default: 8081)")
_WORKERS = Arg(("-w", "--workers"), type=int, default=1, help="Number of worker processes (default: 1)")
_SSL_CERTFILE = Arg(("--ssl-certfile",), default=None, help="Certificate file, to serve HTTPS")
_SSL_KEYFILE = Arg(("--ssl-keyfile",), default=None, help="Key file of the certificate")

_ACTION_COMMANDS = [
    ActionCommand(
        name="list",
        help="List actions, newest first",
        func=lazy_load_command("airflow_asyncaction.cli.actions.list_"),
        args=(_TYPE, _STATUS, _DAG_ID, _RUN_ID, _SINCE, _LIMIT, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="show",
        help="Show all fields of an action",
        func=lazy_load_command("airflow_asyncaction.cli.actions.show"),
        args=(_UUID, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="logs",
        help="Print the log lines that an action's job reported",
        func=lazy_load_command("airflow_asyncaction.cli.actions.logs"),
        args=(_UUID, _FOLLOW, ARG_VERBOSE),
    ),
    ActionCommand(
        name="stop",
        help="Stop an action. A running job is asked to stop, a queued job is not launched, and a failed"
        " action is not retried",
        func=lazy_load_command("airflow_asyncaction.cli.actions.stop"),
        args=(_UUID, _YES, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="launch",
        help="Launch an operation",
        description="Launch an operation, which is a Dag with the tag async-operation. This validates the"
        " input, creates the Dag run, and prints the action without waiting for it.",
        func=lazy_load_command("airflow_asyncaction.cli.actions.launch"),
        args=(_OPERATION, _INPUT, _SCHEDULE, _IDEMPOTENCY_KEY, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="gateway",
        help="Serve the routes that jobs call, and nothing else",
        description="Serve the routes that jobs call, in a process without any other part of Airflow. Point"
        " [asyncaction] base_url at it, and [asyncaction] task_url at the API server. It needs the database,"
        " [core] fernet_key and, for files, [api] secret_key and the file stores.",
        func=lazy_load_command("airflow_asyncaction.cli.gateway.gateway"),
        args=(_HOST, _PORT, _WORKERS, _SSL_CERTFILE, _SSL_KEYFILE),
    ),
    ActionCommand(
        name="reap",
        help="End orphaned actions now, and delete their pods",
        description="End orphaned actions: their task has ended or is gone, for example because the host of a"
        " worker crashed. The API server also does this itself ([asyncaction] reap_after). Jobs that are"
        " still running are asked to stop. With --pods-in, also delete pods whose action has ended.",
        func=lazy_load_command("airflow_asyncaction.cli.reap.reap"),
        args=(_UNHEARD_FOR, _DRY_RUN, _PODS_IN, _KUBERNETES_CONN_ID, _CONFIG_FILE),
    ),
]
_DB_COMMANDS = [
    ActionCommand(
        name="check",
        help="Print the revision of the tables, and fail if it is not that of this release",
        func=lazy_load_command("airflow_asyncaction.cli.db.check"),
        args=(),
    ),
    ActionCommand(
        name="upgrade",
        help="Create or upgrade the tables, like 'airflow db migrate'",
        func=lazy_load_command("airflow_asyncaction.cli.db.upgrade"),
        args=(),
    ),
    ActionCommand(
        name="downgrade",
        help="Downgrade the tables, which 'airflow db downgrade' does not do for providers",
        func=lazy_load_command("airflow_asyncaction.cli.db.downgrade"),
        args=(_TO_REVISION, _YES),
    ),
    ActionCommand(
        name="rotate-keys",
        help="Encrypt all job secrets with the first Fernet key, after 'airflow rotate-fernet-key'",
        func=lazy_load_command("airflow_asyncaction.cli.db.rotate_keys"),
        args=(),
    ),
]
_FILES_COMMANDS = [
    ActionCommand(
        name="gc",
        help="Remove unused file contents and the remains of crashed uploads",
        description="Remove file contents that no action uses, files that were announced but never"
        " uploaded, and the remains of crashed uploads. It can run at any time. 'airflow db clean' also"
        " does this.",
        func=lazy_load_command("airflow_asyncaction.cli.files.gc"),
        args=(_OLDER_THAN, _DRY_RUN),
    ),
]


def get_cli_commands() -> list[CLICommand]:
    """Return the commands. For ``airflow db clean``, also register our tables and garbage collection."""
    if sys.argv[1:2] == ["db"] and _CLEAN_COMMANDS.intersection(sys.argv[2:3]):
        from airflow_asyncaction.cli.cleanup_preview import parse_preview
        from airflow_asyncaction.store.db_manager import register_with_db_clean

        register_with_db_clean(parse_preview(sys.argv[3:]) if sys.argv[2] == "clean" else None)
        if sys.argv[2] == "clean" and not _READ_ONLY_OPTIONS.intersection(sys.argv):
            # Airflow has no hook after this command. Modules that use threads cannot be imported at exit.
            from airflow_asyncaction.cli.files import collect_garbage

            atexit.register(collect_garbage)
    return [
        GroupCommand(
            name="asyncaction",
            help="Manage async actions",
            subcommands=[
                *_ACTION_COMMANDS,
                GroupCommand(name="db", help="Manage the database tables", subcommands=_DB_COMMANDS),
                GroupCommand(name="files", help="Manage the files of actions", subcommands=_FILES_COMMANDS),
            ],
        )
    ]
