# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a file store, as it is told to who asked: where and how, but not more."""

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
def store_errors(store: FileStore) -> Iterator[None]:
    """Let an ``OSError`` of a store be the service's own.

    :raises FileStoreUnavailable: in its place
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            log.error("File store %s is full", store.name)
            raise FileStoreUnavailable(f"File store {store.name} is full", is_full=True) from None
        log.exception("File store %s does not answer as it should", store.name)
        raise FileStoreUnavailable(f"File store {store.name} does not answer as it should") from None
