# SPDX-License-Identifier: Apache-2.0
"""What a Python job says and asks, in a few calls; all of it is harmless outside Airflow."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

from airflow_asyncaction.exceptions import AsyncActionError
from airflow_asyncaction.job.content import Contents
from airflow_asyncaction.job.files import JobFiles, Named, find_files
from airflow_asyncaction.job.outbox import tidy
from airflow_asyncaction.job.proxies import Proxies
from airflow_asyncaction.job.reporter import Reporter, Timing, say
from airflow_asyncaction.job.transfer import File
from airflow_asyncaction.job.transport import Request, Transport
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.files import DEFAULT_STORE
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.reports import MAX_MESSAGE_CHARS, MAX_NAME_CHARS, LogLine

_DONE = 100  # per cent


class Job:
    """A job as its own program sees it.

    As a context manager it is started, and flushed and closed at the end. Leaving by an exception reports it
    with :meth:`fail` and lets it pass; leaving by ``sys.exit``, or normally without :meth:`result` or
    :meth:`fail`, leaves the end to the process's exit code.

    A process forked from the job's may log and report too; it sends no heartbeats, and leaving the ``with``
    block in it ends nothing.

    What it does not do: it handles no signal, and stops nobody. Ask :meth:`is_stopping` now and then, and
    call :meth:`ask_to_stop` from a handler of SIGTERM.

    :param info: who the job is; ``None``: outside Airflow, nothing is sent
    :param echo: gets each logged line at once, in the thread that logs it
    :param agent: what the server is told of this process; default: hostname, platform, pid, python
    :param proxies: default: the web proxies of this process's environment
    :raises JobInfoError: the hook's URL, or its proxy, cannot be used
    """

    def __init__(
        self,
        info: JobInfo | None,
        *,
        echo: Callable[[LogLine], None] | None = None,
        agent: Mapping[str, Any] | None = None,
        timing: Timing | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        timing = timing or Timing()
        proxies = proxies or Proxies()
        self._info = info
        self._echo = echo
        self._is_asked_to_stop = False
        self._arguments: Any = None
        self._has_arguments = False
        self._reporter: Reporter | None = None
        if info is not None:
            transport = Transport(info, timeout_seconds=timing.timeout_seconds, proxies=proxies)
            self._reporter = Reporter(transport, agent=agent or this_agent(), timing=timing)
        contents = Contents(proxies=proxies)
        self._files = JobFiles(info, self._reporter, contents, timing, self.log)

    def __repr__(self) -> str:
        return f"<Job {self._info.job_id if self._info else 'outside Airflow'}>"

    def __enter__(self) -> Job:  # noqa: PYI034 - Self is of Python 3.11
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, SystemExit) and self._may_end():
            try:
                self.fail(error)
            except AsyncActionError as failure:
                say(f"the job's failure could not be reported: {failure}")
        self.close()

    @property
    def info(self) -> JobInfo | None:
        """Who the job is; ``None`` outside Airflow."""
        return self._info

    @property
    def arguments(self) -> Any:
        """What the action was given: from ``JOB_ARGUMENTS``, else asked for once; ``{}`` outside Airflow.

        :raises ServerError: it was asked for, and not answered
        :raises json.JSONDecodeError: ``JOB_ARGUMENTS`` is not JSON
        """
        if not self._has_arguments:
            if self._info is None or self._reporter is None:
                self._arguments = {}
            elif self._info.arguments:
                self._arguments = json.loads(self._info.arguments)
            else:
                self._arguments = self._reporter.call(Request("GET", "/job"))["arguments"]
            self._has_arguments = True
        return self._arguments

    def start(self) -> None:
        """Tell the server that the job runs, and go on doing so in the background. Done by all else here."""
        if self._reporter is not None:
            self._reporter.start()

    def log(self, text: str, level: str = "INFO", *, stream: str | None = None, echo: bool = True) -> None:
        """Send a log line, soon and together with others. Never fails, and never waits for the server.

        :param text: cut to 16 KiB
        :param stream: ``stdout`` or ``stderr`` if this line is written there as well
        :param echo: whether the constructor's ``echo`` gets it too
        """
        line = LogLine(tidy(str(text)), str(level).upper(), time.time_ns() // 1_000_000, stream)
        if self._echo is not None and echo:
            self._echo(line)
        if self._reporter is not None:
            self._reporter.add(line)

    def progress(self, percent: float, message: str | None = None) -> None:
        """Say how far the job is. Cheap: only the newest is sent, about every second.

        :param percent: 0 to 100
        :raises ValueError: it is not
        """
        percent = int(percent) if isinstance(percent, int) else float(percent)
        if not math.isfinite(percent) or not 0 <= percent <= _DONE:
            raise ValueError(f"progress is a number from 0 to 100, not {percent!r}")
        details: dict[str, Any] = {"progress": percent}
        if message is not None:
            details["message"] = tidy(str(message))
        if self._reporter is not None:
            self._reporter.set_details(details, hurry=percent == _DONE)

    def result(self, value: Any) -> None:
        """Report SUCCESS with a result, ``None``, ``0`` and ``""`` included, and wait until it has arrived.

        :param value: any JSON value
        :raises TypeError: it is not; nothing was sent
        :raises Superseded: a newer attempt took over: stop
        :raises ServerError: it was refused, or could not be delivered
        """
        self._end({"status": "SUCCESS", "results": _as_json(value)})

    def succeed(self) -> None:
        """Report SUCCESS without a result. Raises like :meth:`result`."""
        self._end({"status": "SUCCESS"})

    def fail(self, error: str | BaseException, name: str | None = None) -> None:
        """Report ERROR and wait until it has arrived. Raises like :meth:`result`.

        :param error: the message, or the exception that tells it
        :param name: of the kind of error; default: the exception's type, or ``JobError``
        """
        if isinstance(error, BaseException):
            name = name or type(error).__name__
        name = tidy(name or "JobError")[:MAX_NAME_CHARS]
        message = tidy(str(error) or name)[:MAX_MESSAGE_CHARS]
        self._end({"status": "ERROR", "errorName": name, "errorMessage": message})

    def is_stopping(self) -> bool:
        """Whether the job was asked to stop, or was replaced. Each answer to a report says so.

        SIGTERM comes at about the same time, and ends a program that does not handle it.
        """
        return self._is_asked_to_stop or (self._reporter is not None and self._reporter.is_stopping)

    def ask_to_stop(self) -> None:
        """Make :meth:`is_stopping` true, for example from a handler of SIGTERM; also outside Airflow."""
        self._is_asked_to_stop = True

    def flush(self, patience_seconds: float | None = None) -> None:
        """Send what waits to be sent, and wait until it has arrived.

        :param patience_seconds: how long to try while the server is away
        :raises ServerError: it could not be delivered
        """
        if self._reporter is not None:
            self._reporter.flush(patience_seconds)

    def discard(self) -> None:
        """Drop what waits to be sent: for who has waited long enough for the server."""
        if self._reporter is not None:
            self._reporter.discard()

    def close(self) -> None:
        """Send what waits to be sent, and stop the background thread. A closed job that is used starts again.

        Never raises; what could not be sent is said on stderr.
        """
        if self._reporter is not None:
            self._reporter.close()

    def download(
        self,
        property: str,  # noqa: A002
        to: str | os.PathLike[str],
        *,
        index: int = 0,
        of: str | None = None,
        store: str = DEFAULT_STORE,
    ) -> Path:
        """Fetch a file of an action, and return its path. What was there before is replaced, or else stays.

        :param to: path, or a folder to have it under its own name: an existing one, or a text that ends in /
        :param of: uuid of an upstream task's action; default: the job's own
        :raises ServerError: it was refused, or could not be fetched
        :raises AsyncActionError: it is not what the server says of it, or this is outside Airflow
        """
        return self._files.download(self._files.file_property(property, of, store), to, index)

    def download_all(
        self,
        property: str,  # noqa: A002
        to: str | os.PathLike[str],
        *,
        of: str | None = None,
        store: str = DEFAULT_STORE,
    ) -> list[Path]:
        """Fetch all files of a property, at least one, into a folder. See :meth:`download`.

        :param to: folder; it is made, with sub-folders as the files' names say
        :raises AsyncActionError: two of them have the same name; the first is there
        """
        return self._files.download_all(self._files.file_property(property, of, store), to)

    def upload(
        self,
        property: str,  # noqa: A002
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        mimetype: str | None = None,
        store: str = DEFAULT_STORE,
    ) -> File:
        """Attach a file to the action. A content that the store has already is not sent.

        :param property: what the file is to the action: ``[A-Za-z_][A-Za-z0-9_]{0,63}``
        :param name: relative POSIX path; default: the last part of ``path``
        :param metadata: a JSON object
        :param mimetype: default: guessed by the name
        :raises ServerError: it was refused, could not be delivered, or changed meanwhile
        :raises OSError: it cannot be read
        """
        named = Named(name or Path(path).name, Path(path))
        return self._files.upload(self._files.file_property(property, None, store), named, metadata, mimetype)

    def upload_all(
        self,
        property: str,  # noqa: A002
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
        store: str = DEFAULT_STORE,
    ) -> list[File]:
        """Attach all files of a folder, or that match a pattern. Raises like :meth:`upload`.

        :param path: a file, a folder with all below it, or a pattern, with ``**`` for any folders; names are
            relative to the folder, or to what is before the pattern's first wildcard
        :raises FileNotFoundError: there is none
        """
        target = self._files.file_property(property, None, store)
        return [self._files.upload(target, named, metadata) for named in find_files(path)]

    def send(self, request: Request) -> dict[str, Any]:
        """Send a signed request to another route of the hook, and return the answer's object.

        :raises ServerError: it was refused, or could not be delivered, or this is outside Airflow
        """
        if self._reporter is None:
            raise AsyncActionError("There is no server to ask outside Airflow")
        return self._reporter.call(request)

    def _end(self, fields: Mapping[str, Any]) -> None:
        if self._reporter is not None:
            self._reporter.end(fields)

    def _may_end(self) -> bool:
        reporter = self._reporter
        return reporter is not None and reporter.is_owner and not reporter.has_said_end


def this_agent() -> dict[str, Any]:
    """Return what the server is told of this process."""
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "pid": os.getpid(),
        "python": platform.python_version(),
    }


_innermost: list[Job] = []  # for threads, which do not see their starter's context
_current: ContextVar[Job | None] = ContextVar("asyncaction_job", default=None)
_opened: Job | None = None
_opening = threading.RLock()
_has_said = False


def open_job(environ: Mapping[str, str] | None = None, *, timing: Timing | None = None) -> Job:
    """Return the job that this process is, started; outside Airflow, one that sends nothing.

    :param environ: default: ``os.environ``
    :raises JobInfoError: some of the JOB_ variables are missing or wrong, or the proxy cannot be used
    """
    environ = os.environ if environ is None else environ
    info = JobInfo.from_environ(environ)
    if info is None:
        _say_outside()
    job = Job(info, timing=timing, proxies=Proxies(environ))
    job.start()
    return job


def current_job() -> Job:
    """Return the job of the innermost :func:`use_job`, else the one of this process's environment."""
    global _opened  # noqa: PLW0603 - a process is one job
    job = _current.get() or (_innermost[-1] if _innermost else None)
    if job is not None:
        return job
    with _opening:
        if _opened is None:
            _opened = open_job()
        return _opened


@contextlib.contextmanager
def use_job(job: Job) -> Iterator[Job]:
    """Make ``job`` what :func:`current_job` returns, also in threads that are started within. Starts it only.

    Who made the job ends or closes it.
    """
    job.start()
    token = _current.set(job)
    _innermost.append(job)
    try:
        yield job
    finally:
        _innermost.remove(job)
        _current.reset(token)


def _say_outside() -> None:
    global _has_said  # noqa: PLW0603 - once per process
    if not _has_said:
        _has_said = True
        say("there are no JOB_ variables, so this is no job of Airflow: nothing is reported")


def _as_json(value: Any) -> Any:
    """Return the value as the server will read it.

    :raises TypeError: it would not take it
    """
    try:
        return strict_json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"A result must be a JSON value: {error}") from None
