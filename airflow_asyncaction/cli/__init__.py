# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction ...``. Loaded at each start of Airflow's CLI: imports stay light."""

from __future__ import annotations

import sys

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

_CLEANING = {"clean", "export-archived", "drop-archived"}

_TO_REVISION = Arg(("--to-revision",), help="Revision to go to, such as 0001; 'base' drops the tables")
_YES = Arg(("-y", "--yes"), action="store_true", help="Do not ask")


def get_cli_commands() -> list[CLICommand]:
    """Return the commands, and let ``airflow db clean`` know our tables where it is what runs."""
    if sys.argv[1:2] == ["db"] and _CLEANING.intersection(sys.argv[2:3]):
        from airflow_asyncaction.store.db_manager import register_with_db_clean

        register_with_db_clean()
    return [
        GroupCommand(
            name="asyncaction",
            help="Manage async actions",
            subcommands=[GroupCommand(name="db", help="Manage their tables", subcommands=_db_commands())],
        )
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
