# SPDX-License-Identifier: Apache-2.0
"""A content that comes through the API server: written and digested as it comes, in constant memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor

from airflow_asyncaction.files.attaching import Attaching, ReceivedContent
from airflow_asyncaction.files.store_errors import store_errors
from airflow_asyncaction.files.stores.base import FileStore, Incoming, Measured
from airflow_asyncaction.files.tokens import UploadToken
from airflow_asyncaction.protocol.digests import Digester
from airflow_asyncaction.protocol.file_rules import check_content_size
from airflow_asyncaction.protocol.files import FileRecord

_WORTH_A_THREAD_BYTES = 128 * 1024


class Receiving:
    """Takes one content. Either :meth:`finish` or :meth:`discard` ends it.

    :param hashers: threads that share the work of digesting
    """

    def __init__(
        self,
        token: UploadToken,
        store: FileStore,
        incoming: Incoming,
        attaching: Attaching,
        hashers: Executor,
    ) -> None:
        self._token = token
        self._store = store
        self._incoming = incoming
        self._attaching = attaching
        self._hashers = hashers
        self._digester = Digester()
        self._began_at = time.monotonic()
        self._working = threading.Lock()
        self._is_handed_over = False

    @property
    def size_bytes(self) -> int:
        """How much has come."""
        return self._digester.size_bytes

    def write(self, chunk: bytes) -> None:
        """Take the next piece.

        :raises FileRefused: it is more than was announced, or may be
        :raises FileStoreUnavailable: it cannot be written
        """
        with self._working:
            self._write(chunk)

    def check_size(self, size_bytes: int) -> None:
        """Make sure that a content of this size may come.

        :raises FileRefused: it may not
        """
        check_content_size(size_bytes, self._token.max_bytes)

    def finish(self) -> FileRecord:
        """Verify the content and attach its file.

        :raises FileRefused: it is not what was announced
        """
        with self._working:
            with store_errors(self._store):
                self._incoming.finish()
            found = self._digester.result()
            measured = Measured(found.md5, found.sha256, found.size_bytes, found.challenge)
            seconds = time.monotonic() - self._began_at
            content_id, md5 = self._incoming.content_id, self._token.md5
            self._is_handed_over = True
            arrived = ReceivedContent(self._store, content_id, measured, md5, seconds)
            return self._attaching.attach(self._token.action_id, self._token.file_id, arrived)

    def discard(self) -> None:
        """Leave nothing behind, unless :meth:`finish` has taken it on: that may still be at work."""
        with self._working:
            if not self._is_handed_over:
                self._incoming.discard()

    def _write(self, chunk: bytes) -> None:
        self.check_size(self.size_bytes + len(chunk))
        first, second = self._digester.update_steps(chunk)
        elsewhere = self._hashers.submit(first) if len(chunk) > _WORTH_A_THREAD_BYTES else first()
        with store_errors(self._store):
            self._incoming.write(chunk)
        second()
        if elsewhere is not None:
            elsewhere.result()
