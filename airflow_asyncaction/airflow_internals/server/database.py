# SPDX-License-Identifier: Apache-2.0
"""Metadata database: Airflow's engine, sessions and column types.

Uses: ``airflow.settings`` (``get_engine``, ``SQL_ALCHEMY_CONN``), ``airflow.utils.session.create_session``,
``airflow.utils.sqlalchemy.UtcDateTime``.

Checked with Airflow 3.3.2.

``UtcDateTime`` returns aware datetimes in UTC from every database.
"""

from __future__ import annotations

from typing import cast

from airflow import settings
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import Engine

__all__ = ["UtcDateTime", "create_session", "engine", "url"]


def engine() -> Engine:
    """Return Airflow's engine. Its connection pool is shared with Airflow."""
    return cast("Engine", settings.get_engine())


def url() -> str:
    """Return the URL of the database, including its password."""
    return str(settings.SQL_ALCHEMY_CONN)
