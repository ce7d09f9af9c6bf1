# SPDX-License-Identifier: Apache-2.0
"""Temporary S3 server (moto), which keeps nothing and accepts every signature."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dev.processes import Process, free_ports, stop

REGION = "us-east-1"

_MODULES = ("moto", "flask_cors")  # the second belongs to its extra
_START_SECONDS = 60.0
_POLL_SECONDS = 0.05


class S3Error(Exception):
    """No S3 server is available."""


class S3Server:
    """``with S3Server() as server: server.create_bucket("lake")``, then use ``server.connection``.

    It listens on a free port of 127.0.0.1.
    """

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.access_key = f"AK{secrets.token_hex(9).upper()}"
        self.secret_key = secrets.token_hex(20)
        self._folder: Path | None = None
        self._process: Process | None = None

    def __enter__(self) -> Self:
        for module in _MODULES:
            if importlib.util.find_spec(module) is None:
                raise S3Error("no S3 server: install moto[server], which this project's dev group has")
        self._folder = Path(tempfile.mkdtemp(prefix="asyncaction-s3-"))
        try:
            self._start(self._folder)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Endpoint URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connection(self) -> str:
        """Airflow connection as JSON, for ``AIRFLOW_CONN_...``."""
        return self.connection_to(self.url)

    def connection_to(self, endpoint_url: str, **config: Any) -> str:
        """Return the connection with another endpoint, such as a proxy or an unused port.

        :param config: options of botocore's ``Config``
        """
        extra = {"endpoint_url": endpoint_url, "region_name": REGION, "config_kwargs": config}
        return json.dumps(
            {"conn_type": "aws", "login": self.access_key, "password": self.secret_key, "extra": extra}
        )

    def log_text(self) -> str:
        """Return its log, with a line for each request."""
        assert self._process is not None
        return self._process.log.read_text(errors="replace")

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket.

        :raises S3Error: the name is invalid, or the bucket exists
        """
        status = self._status("PUT", f"/{name}")
        if status != 200:
            raise S3Error(f"Cannot create the bucket {name}: the S3 server returned {status}")

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Put an object.

        :raises S3Error: the server refuses it
        """
        status = self._status("PUT", f"/{bucket}/{key}", content)
        if status != 200:
            raise S3Error(f"Cannot put the object {key}: the S3 server returned {status}")

    def stop(self) -> None:
        """Stop the server and discard all objects."""
        if self._process is not None:
            stop([self._process], grace_seconds=5)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _start(self, folder: Path) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = Process("s3", command, environ=dict(os.environ), log=folder / "log")
        self._process.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_responding():
            if not self._process.is_running or time.monotonic() > deadline:
                raise S3Error(f"The S3 server (moto) does not respond:\n{self._process.tail()}")
            time.sleep(_POLL_SECONDS)

    def _is_responding(self) -> bool:
        try:
            return self._status("GET", "/") == 200
        except OSError:
            return False

    def _status(self, method: str, path: str, body: bytes = b"") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body)
            return connection.getresponse().status
        finally:
            connection.close()
