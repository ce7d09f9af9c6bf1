# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction db ...``: what Airflow's own database commands do not do for providers."""

from __future__ import annotations

from argparse import Namespace

from airflow import settings
from airflow.utils.cli import action_cli
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from airflow.utils.session import create_session

from airflow_asyncaction.store.db_manager import AsyncActionDBManager
from airflow_asyncaction.store.secret import rotate_all


@action_cli(check_db=False)
@providers_configuration_loaded
def check(_args: Namespace) -> None:
    """Print the revision; exit with 1 if it is not the newest."""
    with create_session() as session:
        manager = AsyncActionDBManager(session)
        revision = manager.get_current_revision()
        is_newest = manager.check_migration()
    print(f"The tables are at revision {revision}")
    if not is_newest:
        raise SystemExit("They are not at this release's: run 'airflow db migrate'")


@action_cli(check_db=False)
@providers_configuration_loaded
def upgrade(_args: Namespace) -> None:
    """Create or upgrade the tables."""
    with create_session() as session:
        AsyncActionDBManager(session).upgradedb()


@action_cli(check_db=False)
@providers_configuration_loaded
def downgrade(args: Namespace) -> None:
    """Take migrations back."""
    if not args.to_revision:
        raise SystemExit("--to-revision is missing: give a revision such as 0001, or 'base'")
    if not args.yes:
        question = f"Take the tables of async actions in {settings.engine.url!r} back to {args.to_revision}?"
        if input(f"{question} What newer columns hold is lost. [y/N] ").strip().lower() != "y":
            raise SystemExit("Nothing was changed")
    with create_session() as session:
        AsyncActionDBManager(session).downgrade(args.to_revision)


@action_cli(check_db=False)
@providers_configuration_loaded
def rotate_keys(_args: Namespace) -> None:
    """Encrypt all secrets anew."""
    done = rotate_all(settings.get_engine())
    print(f"Encrypted the secrets of {done} actions with the first fernet key")
