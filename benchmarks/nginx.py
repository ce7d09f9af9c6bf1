# SPDX-License-Identifier: Apache-2.0
"""Temporary nginx that serves and accepts files: the baseline for transfers through the API server."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from dev.processes import Process, free_ports, stop

_CONF = """
worker_processes 1; daemon off; user {user}; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; sendfile on; client_max_body_size 0;
  client_body_temp_path {folder}/incoming; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {folder}/contents; location / {{ dav_methods PUT; }} }}
}}
"""


class NoNginx(Exception):
    """nginx is not installed (Debian: apt install nginx-light)."""


def find_nginx() -> str:
    """Return the program.

    :raises NoNginx: it is not installed
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        raise NoNginx(NoNginx.__doc__)
    return program


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Run nginx with all its files in a folder; yield its URL.

    :raises NoNginx: it is not installed
    :raises RuntimeError: it does not start
    """
    program = find_nginx()
    (folder / "contents").mkdir(parents=True)
    (port,) = free_ports(1)
    conf = folder / "nginx.conf"
    user = "root" if os.geteuid() == 0 else "nobody"
    conf.write_text(_CONF.format(folder=folder, port=port, user=user))
    process = Process("nginx", [program, "-c", str(conf)], environ=os.environ, log=folder / "nginx.log")
    process.start()
    try:
        _wait(f"http://127.0.0.1:{port}/", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop([process], grace_seconds=5)


def _wait(url: str, process: Process) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.is_running:
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nginx does not start:\n{process.tail()}")
