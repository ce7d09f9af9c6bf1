# SPDX-License-Identifier: Apache-2.0
"""Receiving: writes and digests an upload to the API server while it arrives, in constant memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor

from airflow_asyncaction.files.attaching import Attaching, ReceivedContent
from airflow_asyncaction.files.stores.base import FileStore, Incoming, convert_store_errors
from airflow_asyncaction.files.tokens import UploadToken
from airflow_asyncaction.protocol.digests import Digester
from airflow_asyncaction.protocol.file_rules import check_content_size
from airflow_asyncaction.protocol.files import FileRecord

_WORTH_A_THREAD_BYTES = 128 * 1024


class Receiving:
    """One upload in progress. Call :meth:`close` in any case: it discards an upload that was not finished.

    :param hashers: threads that share the work of computing digests
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
        self._is_finishing = False

    @property
    def size_bytes(self) -> int:
        """Number of bytes received."""
        return self._digester.size_bytes

    def write(self, chunk: bytes) -> None:
        """Write the next chunk.

        :raises FileRefused: the content exceeds the announced size or the limit
        :raises FileStoreUnavailable: the file store cannot write it
        """
        with self._working:
            self._write(chunk)

    def check_size(self, size_bytes: int) -> None:
        """Check the size of the content against the maximum size in the token.

        :raises FileRefused: the content is too large
        """
        check_content_size(size_bytes, self._token.max_bytes)

    def finish(self) -> FileRecord:
        """Verify the content and attach it to its file.

        :raises FileRefused: the content differs from its announcement
        """
        with self._working:
            with convert_store_errors(self._store):
                self._incoming.finish()
            seconds = time.monotonic() - self._began_at
            content_id, md5 = self._incoming.content_id, self._token.md5
            self._is_finishing = True
            arrived = ReceivedContent(self._store, content_id, self._digester.result(), md5, seconds)
            return self._attaching.attach(self._token.action_id, self._token.file_id, arrived)

    def close(self) -> None:
        """Discard the content unless :meth:`finish` was called, which may still be running."""
        with self._working:
            if not self._is_finishing:
                self._incoming.discard()

    def _write(self, chunk: bytes) -> None:
        self.check_size(self.size_bytes + len(chunk))
        first, second = self._digester.update_steps(chunk)
        elsewhere = self._hashers.submit(first) if len(chunk) > _WORTH_A_THREAD_BYTES else first()
        with convert_store_errors(self._store):
            self._incoming.write(chunk)
        second()
        if elsewhere is not None:
            elsewhere.result()
