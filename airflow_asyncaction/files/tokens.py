# SPDX-License-Identifier: Apache-2.0
"""Tokens in ``/content`` URLs: signed by this deployment for one content, one method and a limited time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, TypeVar

from itsdangerous import BadData, URLSafeSerializer

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.job_info import JobId

_SALT = "airflow_asyncaction.content"


@dataclass(frozen=True)
class UploadToken:
    """Allows uploading the content of one announced file.

    :param md5: announced MD5. The file may be announced again with different content.
    :param max_bytes: maximum size of the content
    """

    method: ClassVar = "PUT"

    action_id: JobId
    file_id: str
    store: str
    md5: str
    max_bytes: int


@dataclass(frozen=True)
class DownloadToken:
    """Allows downloading one content."""

    method: ClassVar = "GET"

    content_id: str
    store: str
    size_bytes: int
    sha256: str
    name: str
    mimetype: str


T = TypeVar("T", UploadToken, DownloadToken)


class Tokens:
    """Signs and verifies tokens.

    :param key: secret that all API servers share (``[api] secret_key``)
    """

    def __init__(self, key: str, *, valid_for: timedelta) -> None:
        self.valid_for = valid_for
        self._serializer = URLSafeSerializer(
            key, salt=_SALT, signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        )

    def sign(self, token: UploadToken | DownloadToken, now: datetime) -> str:
        """Return the text of a token."""
        return str(self._serializer.dumps([token.method, unix_ms(now + self.valid_for), vars(token)]))

    def read(self, kind: type[T], text: str, now: datetime) -> T:
        """Verify the text of a token of this kind.

        :raises FileRefused: the token is invalid, expired, or for another method
        """
        try:
            for_method, valid_until_ms, fields = self._serializer.loads(text)
        except BadData:
            raise FileRefused("The URL is invalid: this server did not sign it", code="bad_token") from None
        if for_method != kind.method:
            raise FileRefused(f"The URL is only valid for {for_method}", code="bad_token")
        if unix_ms(now) > valid_until_ms:
            raise FileRefused("The URL has expired. Request a new one", code="bad_token")
        return kind(**fields)
