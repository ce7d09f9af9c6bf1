# SPDX-License-Identifier: Apache-2.0
"""Temporary pgbouncer in front of a temporary PostgreSQL server, which pools transactions."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.postgres import USER, Postgres, server_owner
from dev.processes import free_ports

_CONFIG = """
[databases]
{database} = host=127.0.0.1 port={postgres.port} user={user} password={postgres.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
"""


@contextmanager
def pgbouncer(postgres: Postgres, database: str, *, pool_size: int) -> Iterator[str]:
    """Run pgbouncer, and yield the URL of a database behind it, without a driver.

    :param pool_size: number of connections to PostgreSQL
    """
    folder = Path(tempfile.mkdtemp(prefix="asyncaction-pgbouncer-"))
    (port,) = free_ports(1)
    config = folder / "pgbouncer.ini"
    config.touch(mode=0o600)
    config.write_text(
        _CONFIG.format(
            database=database, postgres=postgres, port=port, folder=folder, user=USER, pool_size=pool_size
        )
    )
    owner = server_owner()  # like PostgreSQL, it does not run as root
    if owner is not None:
        for path in (folder, config):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    with subprocess.Popen(
        ["pgbouncer", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
        extra_groups=[] if owner else None,
    ) as process:
        try:
            while not _is_listening(port):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.02)
            yield f"postgresql://{USER}@127.0.0.1:{port}/{database}"
        finally:
            process.kill()
            shutil.rmtree(folder)


def _is_listening(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
