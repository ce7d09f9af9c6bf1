# SPDX-License-Identifier: Apache-2.0
"""S3 file store: transfers and verifies contents without passing them through the API server."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

from airflow_asyncaction.files.stores.object_storage import ObjectFileStore, convert_errors
from airflow_asyncaction.protocol.digests import Digests


class S3FileStore(ObjectFileStore):
    """Stores contents in a bucket.

    The API server verifies content without reading it: S3 computes the SHA-256 of the copy, and the ETag of
    an object that was uploaded in one part is its MD5.
    """

    put_options: ClassVar[dict[str, Any] | None] = {"client_method": "put_object"}
    cannot_sign: ClassVar[tuple[type[Exception], ...]] = ()

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Digests:
        """Copy the object, and have S3 compute its digests. If S3 does not, read the copy."""
        bucket, source, _ = self._fs.split_path(self._incoming(upload_id))
        target = {"Bucket": bucket, "Key": self._fs.split_path(self._content(content_id))[1]}
        with convert_errors(), _detect_missing_bucket():
            self._fs.call_s3(
                "copy_object",
                **target,
                CopySource={"Bucket": bucket, "Key": source},
                ChecksumAlgorithm="SHA256",
                MetadataDirective="REPLACE",  # drops a Content-Encoding of the upload
            )
            head = self._fs.call_s3("head_object", **target, ChecksumMode="ENABLED")
        sha256 = _to_hex(head.get("ChecksumSHA256"))
        if sha256 is None or head.get("ETag", "").strip('"') != md5:
            return self._read(content_id)  # encrypted with a customer key, uploaded in parts, or different
        return Digests(md5, challenge=None, sha256=sha256, size_bytes=head["ContentLength"])

    @cached_property
    def _signer(self) -> Any:
        """Same file system with signature version 4, since newer buckets refuse version 2."""
        if self._fs.anon:
            raise OSError("URLs cannot be signed: the connection of the file store has no credentials")
        options = dict(self._fs.storage_options)
        config = {**(options.pop("config_kwargs", None) or {}), "signature_version": "s3v4"}
        return type(self._fs)(**options, config_kwargs=config)


@contextmanager
def _detect_missing_bucket() -> Iterator[None]:
    """Convert the ``FileNotFoundError`` of a missing bucket, which is not a missing object."""
    try:
        yield
    except FileNotFoundError as error:
        response = getattr(error.__cause__, "response", {})
        if response.get("Error", {}).get("Code") == "NoSuchBucket":
            raise OSError("The bucket does not exist") from error
        raise


def _to_hex(checksum: str | None) -> str | None:
    """Return the checksum of a whole object as hex; ``None`` for a checksum of parts."""
    if checksum is None or "-" in checksum:
        return None
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except binascii.Error:
        return None
