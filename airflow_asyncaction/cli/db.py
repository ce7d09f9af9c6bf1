# SPDX-License-Identifier: Apache-2.0
"""Commands ``airflow asyncaction db ...``: check, upgrade and downgrade tables, and rotate keys."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from airflow_asyncaction.airflow_internals.server import database
from airflow_asyncaction.cli.arguments import confirm, exit_on_error
from airflow_asyncaction.store.db_manager import AsyncActionDBManager
from airflow_asyncaction.store.secret import rotate_all


@contextmanager
def _manager() -> Iterator[AsyncActionDBManager]:
    with database.create_session() as session:
        yield AsyncActionDBManager(session)


@exit_on_error
def check(_args: Namespace) -> None:
    """Print the revision, and exit with 1 if it is not the newest."""
    with _manager() as manager:
        revision = manager.get_current_revision()
        is_newest = manager.check_migration()
    print(f"The tables are at revision {revision}")
    if not is_newest:
        raise SystemExit("The tables are not at the revision of this release. Run 'airflow db migrate'")


@exit_on_error
def upgrade(_args: Namespace) -> None:
    """Create or upgrade the tables."""
    with _manager() as manager:
        manager.upgradedb()


@exit_on_error
def downgrade(args: Namespace) -> None:
    """Downgrade the tables."""
    if not args.to_revision:
        raise SystemExit("--to-revision is required: a revision such as 0001, or 'base'")
    if not args.yes:
        question = f"Downgrade the tables of async actions in {database.engine().url!r}"
        if not confirm(f"{question} to {args.to_revision}? Data in newer columns will be lost."):
            raise SystemExit("Nothing was changed")
    with _manager() as manager:
        manager.downgrade(args.to_revision)


@exit_on_error
def rotate_keys(_args: Namespace) -> None:
    """Encrypt all secrets with the first Fernet key."""
    count = rotate_all(database.engine())
    print(f"Encrypted the secrets of {count} actions with the first Fernet key")
