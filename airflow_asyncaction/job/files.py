# SPDX-License-Identifier: Apache-2.0
"""The files of a job: which of them, from and to where; how one is moved is told in ``transfer``."""

from __future__ import annotations

import glob
import mimetypes
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from airflow_asyncaction.exceptions import AsyncActionError, ServerError
from airflow_asyncaction.job.content import Contents
from airflow_asyncaction.job.outbox import tidy
from airflow_asyncaction.job.reporter import Reporter, Timing
from airflow_asyncaction.job.transfer import (
    Fetched,
    File,
    Progress,
    Send,
    Source,
    fetch_file,
    file_of,
    send_file,
)
from airflow_asyncaction.job.transport import Request
from airflow_asyncaction.protocol.digests import digests
from airflow_asyncaction.protocol.files import (
    DEFAULT_MIMETYPE,
    MAX_FILE_NAME_CHARS,
    checked_property,
    is_file_name,
)
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.transfers import describe

_SHOW_SECONDS = 1.0
_MIMETYPES_OF_ENCODINGS = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
}


@dataclass(frozen=True)
class FileProperty:
    """A property of an action in a file store, to which files are attached.

    :param of: uuid of the action; ``""`` outside Airflow
    """

    property: str
    of: str
    store: str

    def path(self, verb: str) -> str:
        """Return the path of the requests about it."""
        return f"/{verb}/{quote(self.store, safe='')}/{quote(self.of, safe='')}/{self.property}"


@dataclass(frozen=True)
class Named:
    """A local file, and its name in the store."""

    name: str
    path: Path


class JobFiles:
    """Downloads and uploads for one job; outside Airflow nothing is sent.

    :param log: takes a line for each download; of uploads the server itself keeps the log
    """

    def __init__(
        self,
        info: JobInfo | None,
        reporter: Reporter | None,
        contents: Contents,
        timing: Timing,
        log: Callable[[str], None],
    ) -> None:
        self._info = info
        self._reporter = reporter
        self._contents = contents
        self._patience_seconds = timing.report_patience_seconds
        self._log = log

    def file_property(self, property: str, of: str | None, store: str) -> FileProperty:  # noqa: A002
        """Return a property of the job's own action, or of the action ``of``.

        :raises MalformedRequest: the name of the property is invalid
        """
        own = self._info.job_id if self._info is not None else ""
        return FileProperty(checked_property(property), of or own, store)

    def download(self, target: FileProperty, to: str | os.PathLike[str], index: int) -> Path:
        """Fetch one file. See :meth:`Job.download`."""
        is_folder = os.fspath(to).endswith("/") or Path(to).is_dir()
        return self._fetch(target, index, lambda file: _below(Path(to), file) if is_folder else Path(to))

    def download_all(self, target: FileProperty, to: str | os.PathLike[str]) -> list[Path]:
        """Fetch all files of a property. See :meth:`Job.download_all`."""
        paths: list[Path] = []

        def choose(file: File) -> Path:
            path = _below(Path(to), file)
            if path in paths:
                raise AsyncActionError(
                    f"{target.property} has two files named {file.name}: fetch them by index"
                )
            return path

        try:
            while True:
                paths.append(self._fetch(target, len(paths), choose))
        except ServerError as error:
            if not paths or not _is_no_such_file(error):
                raise
        return paths

    def upload(
        self,
        target: FileProperty,
        named: Named,
        metadata: Mapping[str, Any] | None = None,
        mimetype: str | None = None,
    ) -> File:
        """Attach one file. See :meth:`Job.upload`."""
        _check_name(named.name)
        mimetype = mimetype or guess_mimetype(named.name)
        source = Source.from_path(named.path)
        if self._reporter is None:
            return file_of(target.property, named.name, digests(source.chunks()), mimetype, metadata)
        with _Shown(self._reporter, f"uploading {target.property}: {named.name}") as show:
            sent = send_file(
                self._reporter.call,
                target.path("upload"),
                source,
                contents=self._contents,
                name=named.name,
                metadata=metadata,
                mimetype=mimetype,
                on_progress=show,
                patience_seconds=self._patience_seconds,
            )
        return sent.file

    def _fetch(self, target: FileProperty, index: int, choose: Callable[[File], Path]) -> Path:
        reporter = self._server()
        title = f"{target.property}[{index}]"
        with _Shown(reporter, f"downloading {title}") as show:
            fetched = fetch_file(
                reporter.call,
                f"{target.path('download')}/{index}",
                choose,
                contents=self._contents,
                on_progress=show,
                patience_seconds=self._patience_seconds,
            )
        self._log(f"downloaded {title} {_describe(fetched)}")
        return fetched.path

    def _server(self) -> Reporter:
        if self._reporter is None:
            raise AsyncActionError("There are no files to download outside Airflow")
        return self._reporter


class _Shown:
    """Shows a transfer's progress as the job's, now and then, if it takes longer than a moment."""

    def __init__(self, reporter: Reporter, message: str) -> None:
        self._reporter = reporter
        self._message = tidy(message)
        self._is_shown = False
        self._next_at = time.monotonic() + _SHOW_SECONDS

    def __enter__(self) -> Progress:
        return self._show

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._reporter.end_transfer()

    def _show(self, moved: int, size_bytes: int) -> None:
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _SHOW_SECONDS
        self._is_shown = True
        percent = round(100 * moved / max(size_bytes, 1), 1)
        self._reporter.show_transfer({"progress": percent, "message": self._message})


def has_file(send: Send, target: FileProperty, index: int) -> bool:
    """Tell whether a file is attached with this index.

    :raises ServerError: it was refused, or could not be delivered
    """
    try:
        send(Request("GET", f"{target.path('download')}/{index}"))
    except ServerError as error:
        if _is_no_such_file(error):
            return False
        raise
    return True


def find_files(path: str | os.PathLike[str]) -> list[Named]:
    """Return the files that a path, a folder or a pattern means, sorted by name.

    Links to files are followed, links to folders below the folder are not.

    :raises FileNotFoundError: there is none
    :raises AsyncActionError: the name of one cannot be that of an action's file
    """
    given = Path(path)
    if given.is_file():
        found = [Named(given.name, given)]
    elif given.is_dir():
        found = [_named(given, each) for each in _walk(given)]
    else:
        base = _before_wildcards(given)
        found = [_named(base, Path(each)) for each in glob.glob(str(given), recursive=True)]  # noqa: PTH207
        found = [each for each in found if each.path.is_file()]
    if not found:
        raise FileNotFoundError(f"There is no file {os.fspath(path)}")
    for each in found:
        _check_name(each.name)
    return sorted(found, key=lambda each: each.name)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if path.is_file():
                yield path


def _named(base: Path, path: Path) -> Named:
    return Named(path.relative_to(base).as_posix(), path)


def _before_wildcards(pattern: Path) -> Path:
    base = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        base /= part
    return base


def _below(folder: Path, file: File) -> Path:
    """Return where in a folder a file goes.

    :raises AsyncActionError: its name, or a link that is there, leads out of the folder
    """
    path = folder / file.name
    within = path.parent.resolve()
    if not is_file_name(file.name) or folder.resolve() not in (within, *within.parents):
        raise AsyncActionError(f"{file.name!r} leads out of {folder}: give it another path")
    return path


def _check_name(name: str) -> None:
    if not is_file_name(name):
        raise AsyncActionError(
            f"{name!r} cannot be a file's name: that is a relative path of at most {MAX_FILE_NAME_CHARS}"
            " characters, without '..', backslashes and control characters"
        )


def guess_mimetype(name: str) -> str:
    """Return what a file's name says of its content."""
    mimetype, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        mimetype = _MIMETYPES_OF_ENCODINGS.get(encoding)
    return mimetype or DEFAULT_MIMETYPE


def _is_no_such_file(error: ServerError) -> bool:
    return (error.status, error.code) == (HTTPStatus.NOT_FOUND, "no_such_file")


def _describe(fetched: Fetched) -> str:
    return f"{fetched.file.name}: {describe(fetched.file.size_bytes, fetched.seconds)}"
