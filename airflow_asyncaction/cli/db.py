# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction db ...``: what Airflow's own database commands do not do for providers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from airflow_asyncaction.airflow_internals.server import database
from airflow_asyncaction.cli.arguments import is_confirmed, plain_errors
from airflow_asyncaction.store.db_manager import AsyncActionDBManager
from airflow_asyncaction.store.secret import rotate_all


@contextmanager
def _manager() -> Iterator[AsyncActionDBManager]:
    with database.create_session() as session:
        yield AsyncActionDBManager(session)


@plain_errors
def check(_args: Namespace) -> None:
    """Print the revision; exit with 1 if it is not the newest."""
    with _manager() as manager:
        revision = manager.get_current_revision()
        is_newest = manager.check_migration()
    print(f"The tables are at revision {revision}")
    if not is_newest:
        raise SystemExit("They are not at this release's: run 'airflow db migrate'")


@plain_errors
def upgrade(_args: Namespace) -> None:
    """Create or upgrade the tables."""
    with _manager() as manager:
        manager.upgradedb()


@plain_errors
def downgrade(args: Namespace) -> None:
    """Take migrations back."""
    if not args.to_revision:
        raise SystemExit("--to-revision is missing: give a revision such as 0001, or 'base'")
    if not args.yes:
        question = f"Take the tables of async actions in {database.engine().url!r} back"
        if not is_confirmed(f"{question} to {args.to_revision}? What newer columns hold is lost."):
            raise SystemExit("Nothing was changed")
    with _manager() as manager:
        manager.downgrade(args.to_revision)


@plain_errors
def rotate_keys(_args: Namespace) -> None:
    """Encrypt all secrets anew."""
    done = rotate_all(database.engine())
    print(f"Encrypted the secrets of {done} actions with the first fernet key")
