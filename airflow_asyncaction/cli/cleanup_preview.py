# SPDX-License-Identifier: Apache-2.0
"""Preview of a cleanup: the options of ``airflow db clean --dry-run``, parsed before the command runs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

from airflow.cli.cli_config import (
    ARG_DAG_IDS,
    ARG_DB_CLEANUP_TIMESTAMP,
    ARG_DB_DRY_RUN,
    ARG_EXCLUDE_DAG_IDS,
)

from airflow_asyncaction.airflow_internals.server.db_manager import CleanupPreview


def parse_preview(arguments: Sequence[str]) -> CleanupPreview | None:
    """Parse the arguments of ``airflow db clean``. Return ``None`` if it is no dry run, or cannot run."""
    parser = _QuietParser(add_help=False)
    for option in (ARG_DB_DRY_RUN, ARG_DB_CLEANUP_TIMESTAMP, ARG_DAG_IDS, ARG_EXCLUDE_DAG_IDS):
        option.add_to_parser(parser)
    try:
        options, _ = parser.parse_known_args(arguments)
    except ValueError:
        return None
    if not options.dry_run:
        return None
    return CleanupPreview(options.clean_before_timestamp, options.dag_ids, options.exclude_dag_ids)


class _QuietParser(ArgumentParser):
    """Leaves error messages to Airflow, which parses the same arguments again."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
