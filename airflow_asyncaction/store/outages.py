# SPDX-License-Identifier: Apache-2.0
"""Outages: how a database that does not answer is told from a statement, or a row, that is wrong."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from airflow_asyncaction.exceptions import ActionNotFound, StoreUnavailable
from airflow_asyncaction.protocol.job_info import JobId

log = logging.getLogger(__name__)


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


def anatomy(error: BaseException) -> str:
    """Return the type of an error and its traceback, without its message: that may quote a job's data."""
    names = [type(error).__name__]
    if isinstance(error, DBAPIError) and error.orig is not None:
        names.append(type(error.orig).__name__)
    return f"{': '.join(names)}\n{''.join(traceback.format_tb(error.__traceback__))}".rstrip()


@contextmanager
def one_of_many(action_id: JobId) -> Iterator[None]:
    """Log what is wrong with one action, so that it does not stop the others of its batch.

    An action that was cleaned away meanwhile is ignored.

    :raises StoreUnavailable: the database does not answer
    """
    try:
        yield
    except ActionNotFound:
        return
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a row holds: the next row is another task's
        log.error("Action %s could not be ended; the API server tries again. %s", action_id, anatomy(error))
