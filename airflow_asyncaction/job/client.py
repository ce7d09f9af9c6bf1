# SPDX-License-Identifier: Apache-2.0
"""Job: the API of the job client. Outside Airflow, nothing is sent, and only downloads and ``send`` fail."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from airflow_asyncaction.exceptions import AsyncActionError
from airflow_asyncaction.job.content_client import ContentClient
from airflow_asyncaction.job.file_transfer import File
from airflow_asyncaction.job.files import JobFiles, NamedFile, find_files
from airflow_asyncaction.job.outgoing_reports import clean_text
from airflow_asyncaction.job.proxies import Proxies
from airflow_asyncaction.job.reporter import Reporter, Timing
from airflow_asyncaction.job.stderr import NOT_A_JOB, print_stderr
from airflow_asyncaction.job.transport import Request, Transport
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.files import DEFAULT_STORE
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.reports import MAX_MESSAGE_CHARS, MAX_NAME_CHARS, LogLine

_DONE_PERCENT = 100


class Job:
    """The job that this process runs.

    As a context manager, it starts the job on entry, and flushes and closes it on exit. An exception that
    leaves the block is reported with :meth:`fail` and propagates. After ``sys.exit``, or without a call of
    :meth:`result`, :meth:`succeed` or :meth:`fail`, the exit code of the process decides how the job ends.

    Forked child processes may log and report too. They send no heartbeats, and leaving the ``with`` block in
    a child does not end the job.

    It does not handle signals or stop the program: poll :meth:`is_stopping`, and call :meth:`ask_to_stop`
    from a SIGTERM handler.

    :param info: identity of the job; ``None`` outside Airflow, where nothing is sent
    :param echo: called with each log line in the thread that logs it
    :param agent: description of this process; default: hostname, platform, pid and Python version
    :param proxies: default: the proxies of this process's environment
    :raises JobInfoError: the hook URL or its proxy cannot be used
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
        contents = ContentClient(proxies=proxies)
        self._files = JobFiles(info, self._reporter, contents, timing, self.log)

    def __repr__(self) -> str:
        return f"<Job {self._info.job_id if self._info else 'outside Airflow'}>"

    def __enter__(self) -> Job:  # noqa: PYI034 - Self requires Python 3.11
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, SystemExit) and self._may_end():
            try:
                self.fail(error)
            except AsyncActionError as failure:
                print_stderr(f"The job's failure could not be reported: {failure}")
        self.close()

    @property
    def info(self) -> JobInfo | None:
        """Identity of the job; ``None`` outside Airflow."""
        return self._info

    @property
    def arguments(self) -> Any:
        """Arguments of the action, from ``JOB_ARGUMENTS`` or the server. ``{}`` outside Airflow.

        :raises ServerError: the server refused the request or did not respond
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
        """Report that the job is running, and send heartbeats from now on.

        :meth:`log` and :meth:`progress` call this.
        """
        if self._reporter is not None:
            self._reporter.start()

    def log(self, text: str, level: str = "INFO", *, stream: str | None = None, echo: bool = True) -> None:
        """Queue a log line, which is sent together with others. Never fails or waits for the server.

        :param text: cut to 16 KiB
        :param stream: ``stdout`` or ``stderr`` if this line is also written there
        :param echo: whether to call the constructor's ``echo``
        """
        line = LogLine(clean_text(str(text)), str(level).upper(), time.time_ns() // 1_000_000, stream)
        if self._echo is not None and echo:
            self._echo(line)
        if self._reporter is not None:
            self._reporter.add(line)

    def progress(self, percent: float, message: str | None = None) -> None:
        """Report progress. Cheap: only the latest progress is sent, about every second.

        :param percent: 0 to 100
        :raises ValueError: ``percent`` is out of range
        """
        percent = int(percent) if isinstance(percent, int) else float(percent)
        if not 0 <= percent <= _DONE_PERCENT:
            raise ValueError(f"The progress must be a number from 0 to 100, not {percent!r}")
        details: dict[str, Any] = {"progress": percent}
        if message is not None:
            details["message"] = clean_text(str(message))
        if self._reporter is not None:
            self._reporter.set_details(details, is_urgent=percent == _DONE_PERCENT)

    def result(self, value: Any) -> None:
        """Report SUCCESS with a result, and wait until the report has arrived.

        :param value: any JSON value, including ``None``, ``0`` and ``""``
        :raises TypeError: the value is not JSON; nothing was sent
        :raises Superseded: a newer attempt took over: stop
        :raises ServerError: the report was refused or could not be delivered
        """
        self._end({"status": "SUCCESS", "results": _as_json(value)})

    def succeed(self) -> None:
        """Report SUCCESS without a result. Raises like :meth:`result`."""
        self._end({"status": "SUCCESS"})

    def fail(self, error: str | BaseException, name: str | None = None) -> None:
        """Report ERROR, and wait until the report has arrived. Raises like :meth:`result`.

        :param error: error message, or exception
        :param name: kind of error; default: the class of the exception, or ``JobError``
        """
        if isinstance(error, BaseException):
            name = name or type(error).__name__
        name = clean_text(name or "JobError")[:MAX_NAME_CHARS]
        message = clean_text(str(error) or name)[:MAX_MESSAGE_CHARS]
        self._end({"status": "ERROR", "errorName": name, "errorMessage": message})

    def is_stopping(self) -> bool:
        """Return whether the job was asked to stop or was superseded, according to the latest response.

        SIGTERM arrives at about the same time, and ends a program that does not handle it.
        """
        return self._is_asked_to_stop or (self._reporter is not None and self._reporter.is_stopping)

    def ask_to_stop(self) -> None:
        """Make :meth:`is_stopping` return true, for example in a SIGTERM handler; also outside Airflow."""
        self._is_asked_to_stop = True

    def flush(self, patience_seconds: float | None = None) -> None:
        """Send queued reports, and wait until they have arrived.

        :param patience_seconds: how long to resend if the server is unreachable
        :raises ServerError: a report was refused or could not be delivered
        """
        if self._reporter is not None:
            self._reporter.flush(patience_seconds)

    def discard(self) -> None:
        """Discard queued reports."""
        if self._reporter is not None:
            self._reporter.discard()

    def close(self) -> None:
        """Send queued reports, and stop the background thread. It starts again if the job is used later.

        Never raises: failures are printed to stderr.
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
        """Download a file of an action, and return its path. An existing file is only replaced on success.

        :param to: path of the file, or folder: an existing one, or a path that ends in ``/``
        :param of: UUID of the action of an upstream task; default: the job's own action
        :raises ServerError: the download was refused or failed
        :raises AsyncActionError: the content does not match its digests, or this process is not a job
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
        """Download all files of a property into a folder, as :meth:`download` does.

        A property without files is an error.

        :param to: folder; it is created, with the subfolders in the files' names
        :raises AsyncActionError: two files have the same name. Those that were already downloaded are kept
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
        """Upload a file and attach it to the action. Content that is already stored is not sent.

        :param property: name under which the file is attached: ``[A-Za-z_][A-Za-z0-9_]{0,63}``
        :param name: relative POSIX path; default: the last part of ``path``
        :param metadata: a JSON object
        :param mimetype: default: guessed from the name
        :raises ServerError: the upload was refused or failed, or the file changed during it
        :raises OSError: the file cannot be read before the upload
        """
        named = NamedFile(name or Path(path).name, Path(path))
        return self._files.upload(self._files.file_property(property, None, store), named, metadata, mimetype)

    def upload_all(
        self,
        property: str,  # noqa: A002
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
        store: str = DEFAULT_STORE,
    ) -> list[File]:
        """Upload all files of a folder, or all that match a pattern. Raises like :meth:`upload`.

        :param path: a file, a folder (with all files below it) or a glob pattern, in which ``**`` matches any
            folders. Names are relative to the folder, or to the part before the first wildcard
        :raises FileNotFoundError: there is no such file
        """
        target = self._files.file_property(property, None, store)
        return [self._files.upload(target, named, metadata) for named in find_files(path)]

    def send(self, request: Request) -> dict[str, Any]:
        """Send a signed request to a route below the hook, and return the response object.

        :raises ServerError: the request was refused or could not be delivered
        :raises AsyncActionError: this process is not a job
        """
        if self._reporter is None:
            raise AsyncActionError(
                "This process was not started by Airflow, so it has no server to send requests to"
            )
        return self._reporter.call(request)

    def _end(self, fields: Mapping[str, Any]) -> None:
        if self._reporter is not None:
            self._reporter.end(fields)

    def _may_end(self) -> bool:
        reporter = self._reporter
        return reporter is not None and reporter.is_owner and not reporter.has_reported_end


def this_agent() -> dict[str, Any]:
    """Return the default description of this process."""
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "pid": os.getpid(),
        "python": platform.python_version(),
    }


_innermost: list[Job] = []  # for threads, which do not inherit context variables
_current: ContextVar[Job | None] = ContextVar("asyncaction_job", default=None)
_opened: Job | None = None
_opening = threading.RLock()


def open_job(environ: Mapping[str, str] | None = None, *, timing: Timing | None = None) -> Job:
    """Return and start the job that this process runs. Outside Airflow, it sends nothing.

    :param environ: default: ``os.environ``
    :raises JobInfoError: some JOB_ variables are missing or invalid, or the proxy cannot be used
    """
    environ = os.environ if environ is None else environ
    info = JobInfo.from_environ(environ)
    if info is None:
        _warn_outside_airflow()
    job = Job(info, timing=timing, proxies=Proxies(environ))
    job.start()
    return job


def current_job() -> Job:
    """Return the job of the innermost :func:`use_job`, or else that of this process's environment."""
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
    """Make :func:`current_job` return ``job``, also in threads started within the block. Starts the job.

    The caller ends and closes the job.
    """
    job.start()
    token = _current.set(job)
    _innermost.append(job)
    try:
        yield job
    finally:
        _innermost.remove(job)
        _current.reset(token)


@lru_cache  # once per process
def _warn_outside_airflow() -> None:
    print_stderr(NOT_A_JOB)


def _as_json(value: Any) -> Any:
    """Return the value as the server parses it.

    :raises TypeError: the server would refuse it
    """
    try:
        return strict_json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"The result must be a JSON value: {error}") from None
