# SPDX-License-Identifier: Apache-2.0
"""Tokens in ``/content`` URLs: signed by this deployment, for one content, one method and a limited time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow.configuration import conf
from itsdangerous import BadData, URLSafeSerializer

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.job_info import JobId

_SALT = "airflow_asyncaction.content"


@dataclass(frozen=True)
class UploadToken:
    """Lets its holder send the content of one file that was announced.

    :param md5: of what was announced: it may be announced anew, as something else
    :param max_bytes: of at most this size
    """

    action_id: JobId
    file_id: str
    store: str
    md5: str
    max_bytes: int


@dataclass(frozen=True)
class DownloadToken:
    """Lets its holder have one content."""

    content_id: str
    store: str
    size_bytes: int
    sha256: str
    name: str
    mimetype: str


class Tokens:
    """Makes and reads tokens.

    :param key: that all API servers share: ``[api] secret_key``
    """

    def __init__(self, key: str, *, valid_for: timedelta) -> None:
        self.valid_for = valid_for
        self._serializer = URLSafeSerializer(
            key, salt=_SALT, signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        )

    def upload(self, token: UploadToken, now: datetime) -> str:
        """Return the token for ``PUT``."""
        return self._dump("PUT", vars(token), now)

    def download(self, token: DownloadToken, now: datetime) -> str:
        """Return the token for ``GET``."""
        return self._dump("GET", vars(token), now)

    def read_upload(self, text: str, now: datetime) -> UploadToken:
        """Read a token for ``PUT``.

        :raises FileRefused: it is none of ours, not for PUT, or too old
        """
        return UploadToken(**self._load("PUT", text, now))

    def read_download(self, text: str, now: datetime) -> DownloadToken:
        """Read a token for ``GET``, likewise."""
        return DownloadToken(**self._load("GET", text, now))

    def _dump(self, method: str, fields: dict[str, Any], now: datetime) -> str:
        return str(self._serializer.dumps([method, unix_ms(now + self.valid_for), fields]))

    def _load(self, method: str, text: str, now: datetime) -> dict[str, Any]:
        try:
            for_method, valid_until_ms, fields = self._serializer.loads(text)
        except BadData:
            raise FileRefused("The URL was not made by this server", code="bad_token") from None
        if for_method != method:
            raise FileRefused(f"The URL is for {for_method} alone", code="bad_token")
        if unix_ms(now) > valid_until_ms:
            raise FileRefused("The URL is too old: ask for a new one", code="bad_token")
        return fields  # type: ignore[no-any-return]


def own_tokens(valid_for: timedelta) -> Tokens:
    """Return tokens signed with Airflow's own secret key."""
    return Tokens(conf.get("api", "secret_key"), valid_for=valid_for)
