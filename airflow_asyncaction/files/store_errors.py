# SPDX-License-Identifier: Apache-2.0
"""Errors of file stores: logged in full, and reported to clients without details."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from airflow_asyncaction.exceptions import FileStoreUnavailable
from airflow_asyncaction.files.stores.base import FileStore

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def convert_store_errors(store: FileStore) -> Iterator[None]:
    """Convert an ``OSError`` of a file store.

    :raises FileStoreUnavailable: instead of the ``OSError``
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            log.error("File store %s is full", store.name)
            raise FileStoreUnavailable(f"File store {store.name} is full", is_full=True) from None
        log.exception("File store %s failed", store.name)
        raise FileStoreUnavailable(f"File store {store.name} failed. Retry later") from None
