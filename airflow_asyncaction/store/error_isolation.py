# SPDX-License-Identifier: Apache-2.0
"""Error isolation: logs an error in one action of a batch, so that the others are still processed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from airflow_asyncaction.exceptions import ActionNotFound, StoreUnavailable
from airflow_asyncaction.protocol.job_info import JobId

log = logging.getLogger(__name__)


def redacted_traceback(error: BaseException) -> str:
    """Return the type and traceback of an error without its message, which may contain a job's data."""
    names = [type(error).__name__]
    if isinstance(error, DBAPIError) and error.orig is not None:
        names.append(type(error.orig).__name__)
    return f"{': '.join(names)}\n{''.join(traceback.format_tb(error.__traceback__))}".rstrip()


@contextmanager
def isolate_errors(action_id: JobId) -> Iterator[None]:
    """Log an error in one action of a batch, and continue. Ignore an action that was deleted meanwhile.

    :raises StoreUnavailable: the database does not answer
    """
    try:
        yield
    except ActionNotFound:
        return
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - a bad row must not block the tasks of other rows
        log.error(
            "Could not update action %s; the API server retries. %s", action_id, redacted_traceback(error)
        )
