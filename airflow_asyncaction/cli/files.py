# SPDX-License-Identifier: Apache-2.0
"""Commands ``airflow asyncaction files ...``."""

from __future__ import annotations

import os
from argparse import Namespace
from datetime import UTC, datetime, timedelta

from airflow_asyncaction.files.garbage import OLDER_THAN, collect
from airflow_asyncaction.protocol.human_readable import format_size
from airflow_asyncaction.services import open_services


def gc(args: Namespace) -> None:
    """Remove unused stored files and leftovers of uploads."""
    if not args.older_than >= 0:
        raise SystemExit("--older-than must be a number of hours, 0 or more")
    collect_garbage(older_than=timedelta(hours=args.older_than), dry_run=args.dry_run)


def collect_garbage(*, older_than: timedelta = OLDER_THAN, dry_run: bool = False) -> None:
    """Remove garbage, and print how much was removed."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # like Airflow's commands that read connections
    services = open_services()
    now = datetime.now(UTC)
    done = collect(services.database, services.stores, older_than=older_than, now=now, dry_run=dry_run)
    print(
        f"{'Would remove' if dry_run else 'Removed'} {done.contents} stored objects"
        f" ({format_size(done.size_bytes)} in total), {done.files} file records without content or action,"
        f" {done.remains} leftovers of uploads"
    )
    if done.unconfigured:
        print(f"Skipped {done.unconfigured} stored objects in file stores that are not configured")
