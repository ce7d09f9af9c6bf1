# SPDX-License-Identifier: Apache-2.0
"""Outages: how a database that does not answer is told from one that refuses a statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from airflow_asyncaction.exceptions import StoreUnavailable


@contextmanager
def store_outages() -> Iterator[None]:
    """Raise StoreUnavailable where the database does not answer.

    :raises StoreUnavailable: send it again later
    """
    try:
        yield
    except (OperationalError, PoolTimeout) as error:
        raise StoreUnavailable from error
    except DBAPIError as error:
        error.hide_parameters = True  # they are a job's data, and not for the log
        if error.connection_invalidated:
            raise StoreUnavailable from error
        raise
