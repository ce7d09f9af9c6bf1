# SPDX-License-Identifier: Apache-2.0
"""S3, and what speaks its protocol: it takes contents, checks and gives them without the API server."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

from airflow_asyncaction.files.stores.base import Measured
from airflow_asyncaction.files.stores.object_storage import ObjectFileStore, as_os_error


class S3FileStore(ObjectFileStore):
    """Objects of a bucket.

    How a content is verified that the API server never sees: S3 is asked to digest the copy with SHA-256, and
    gives the MD5 as the ETag of an object that was put in one piece.
    """

    put_options: ClassVar[dict[str, Any] | None] = {"client_method": "put_object"}
    cannot_sign: ClassVar[tuple[type[Exception], ...]] = ()

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Measured:
        """Copy the object, and let S3 measure the copy; where it does not, read it."""
        bucket, source, _ = self._fs.split_path(self._incoming(upload_id))
        target = {"Bucket": bucket, "Key": self._fs.split_path(self._content(content_id))[1]}
        with as_os_error(), _missing_bucket_named():
            self._fs.call_s3(
                "copy_object",
                **target,
                CopySource={"Bucket": bucket, "Key": source},
                ChecksumAlgorithm="SHA256",
                MetadataDirective="REPLACE",  # a Content-Encoding, if it was sent, is nothing to pass on
            )
            head = self._fs.call_s3("head_object", **target, ChecksumMode="ENABLED")
        sha256 = _hex(head.get("ChecksumSHA256"))
        if sha256 is None or head.get("ETag", "").strip('"') != md5:
            return self._read(content_id)  # encrypted with a key of its own, or in parts, or wrong
        return Measured(md5, sha256, head["ContentLength"], challenge=None)

    @cached_property
    def _signer(self) -> Any:
        """The same file system with signatures of version 4: the older one is refused by newer buckets."""
        if self._fs.anon:
            raise OSError("There are no credentials: URLs would not be signed")
        options = dict(self._fs.storage_options)
        config = {**(options.pop("config_kwargs", None) or {}), "signature_version": "s3v4"}
        return type(self._fs)(**options, config_kwargs=config)


@contextmanager
def _missing_bucket_named() -> Iterator[None]:
    """Tell a bucket that is not there from an object that is not."""
    try:
        yield
    except FileNotFoundError as error:
        answer = getattr(error.__cause__, "response", {})
        if answer.get("Error", {}).get("Code") == "NoSuchBucket":
            raise OSError("The bucket does not exist") from error
        raise


def _hex(checksum: str | None) -> str | None:
    """Return a checksum of a whole object as hex; one of parts is no digest of the content."""
    if checksum is None or "-" in checksum:
        return None
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except binascii.Error:
        return None
