# SPDX-License-Identifier: Apache-2.0
"""RemoteConnection: an Airflow connection of type ``asyncaction``, parsed and validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_TRUE, _FALSE = ("true", "1", "yes", "on", ""), ("false", "0", "no", "off")
_TIMEOUT_SECONDS = 30.0


class DeploymentKind(StrEnum):
    """What serves the routes of the other deployment."""

    AIRFLOW = "airflow"  # this package, in another Airflow
    WEBDA = "webda"  # webda's AsyncJobService


_PATHS = {DeploymentKind.AIRFLOW: "/async", DeploymentKind.WEBDA: "/async/jobs"}


@dataclass(frozen=True, kw_only=True)
class RemoteConnection:
    """A connection of type ``asyncaction``.

    :param base_url: of the routes, without a trailing slash
    :param airflow_url: where ``/auth/token`` is, without a trailing slash
    :param token: a bearer token to use as it is
    :param verify: whether to verify certificates, or the path of a file or folder of CA certificates
    :param timeout_seconds: for connecting, and for each wait for more bytes
    """

    base_url: str
    airflow_url: str
    kind: DeploymentKind = DeploymentKind.AIRFLOW
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    verify: bool | str = True
    timeout_seconds: float = _TIMEOUT_SECONDS

    @classmethod
    def from_airflow(cls, connection: Any, extra: Mapping[str, Any]) -> RemoteConnection:
        """Parse Airflow's connection.

        :param extra: its extra, which workers and triggers read in different ways
        :raises ValueError: a field is invalid
        """
        kind = _kind(extra.get("kind"))
        base_url = _base_url(connection, kind)
        return cls(
            base_url=base_url,
            airflow_url=str(extra.get("airflow_url") or base_url.rpartition("/")[0]).rstrip("/"),
            kind=kind,
            login=connection.login or None,
            password=connection.password,
            token=extra.get("token") or None,
            verify=_verify(extra.get("verify")),
            timeout_seconds=_timeout_seconds(extra.get("timeout")),
        )

    @property
    def is_webda(self) -> bool:
        """Whether the other deployment is a webda server."""
        return self.kind is DeploymentKind.WEBDA

    @property
    def fetches_token(self) -> bool:
        """Whether login and password are exchanged for a token."""
        return not self.is_webda and self.token is None and self.login is not None


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL.

    :raises ValueError: the URL is invalid
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _kind(value: Any) -> DeploymentKind:
    try:
        return DeploymentKind(str(value or DeploymentKind.AIRFLOW).lower())
    except ValueError:
        raise ValueError(f'extra field kind is {value!r}: it must be "airflow" or "webda"') from None


def _base_url(connection: Any, kind: DeploymentKind) -> str:
    host = (connection.host or "").strip()
    if not host:
        raise ValueError(
            "host is missing: set it to a URL such as https://airflow.example.org/async, or a host name"
        )
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            "host is not a URL such as https://airflow.example.org/async, or schema is not http or https"
        )
    if parts.username or parts.password:
        raise ValueError("host contains a user or password: use login and password instead")
    netloc = parts.netloc
    if connection.port and parts.port is None:
        netloc = f"{netloc}:{connection.port}"
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/") or _PATHS[kind], "", ""))


def _verify(value: Any) -> bool | str:
    if value is None or isinstance(value, bool):
        return value is not False
    text = str(value).strip()
    if text.lower() in _TRUE:
        return True
    return False if text.lower() in _FALSE else text


def _timeout_seconds(value: Any) -> float:
    try:
        seconds = _TIMEOUT_SECONDS if value in (None, "") else float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"extra field timeout is {value!r}: it must be a positive number of seconds")
    return seconds
