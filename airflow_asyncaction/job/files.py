# SPDX-License-Identifier: Apache-2.0
"""Job files: downloads and uploads of properties, folders and patterns. ``file_transfer`` moves one file."""

from __future__ import annotations

import contextlib
import glob
import mimetypes
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_asyncaction.exceptions import AsyncActionError, ServerError
from airflow_asyncaction.job.content_client import ContentClient
from airflow_asyncaction.job.download import Progress
from airflow_asyncaction.job.file_transfer import File, Send, Source, describe_source, fetch_file, send_file
from airflow_asyncaction.job.outgoing_reports import clean_text
from airflow_asyncaction.job.reporter import Reporter, Timing
from airflow_asyncaction.job.transport import Request
from airflow_asyncaction.protocol.digests import digests
from airflow_asyncaction.protocol.files import (
    DEFAULT_MIMETYPE,
    MAX_FILE_NAME_CHARS,
    checked_property,
    is_file_name,
)
from airflow_asyncaction.protocol.human_readable import format_transfer
from airflow_asyncaction.protocol.job_info import JobInfo

_PROGRESS_SECONDS = 1.0
_MIMETYPES_OF_ENCODINGS = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
}


@dataclass(frozen=True)
class FileProperty:
    """A property of an action and a file store: where files are attached.

    :param of: UUID of the action; ``""`` outside Airflow
    """

    property: str
    of: str
    store: str

    def path(self, verb: str) -> str:
        """Return the path of requests about the property."""
        return f"/{verb}/{quote(self.store, safe='')}/{quote(self.of, safe='')}/{self.property}"


@dataclass(frozen=True)
class NamedFile:
    """A local file, and the name under which it is attached."""

    name: str
    path: Path


class JobFiles:
    """Downloads and uploads the files of a job. Outside Airflow, nothing is sent.

    :param log: called with a line for each download. The server logs uploads
    """

    def __init__(
        self,
        info: JobInfo | None,
        reporter: Reporter | None,
        contents: ContentClient,
        timing: Timing,
        log: Callable[[str], None],
    ) -> None:
        self._info = info
        self._reporter = reporter
        self._contents = contents
        self._patience_seconds = timing.report_patience_seconds
        self._log = log

    def file_property(self, property: str, of: str | None, store: str) -> FileProperty:  # noqa: A002
        """Return a property of the job's own action, or of another one.

        :raises MalformedRequest: the property name is invalid
        """
        own = self._info.job_id if self._info is not None else ""
        return FileProperty(checked_property(property), of or own, store)

    def download(self, target: FileProperty, to: str | os.PathLike[str], index: int) -> Path:
        """Download one file. See :meth:`Job.download`."""
        is_folder = os.fspath(to).endswith("/") or Path(to).is_dir()
        return self._fetch(target, index, lambda file: _below(Path(to), file) if is_folder else Path(to))

    def download_all(self, target: FileProperty, to: str | os.PathLike[str]) -> list[Path]:
        """Download all files of a property. See :meth:`Job.download_all`."""
        paths: list[Path] = []

        def choose(file: File) -> Path:
            path = _below(Path(to), file)
            if path in paths:
                raise AsyncActionError(
                    f"The property {target.property} has two files named {file.name}. Download them by index"
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
        named: NamedFile,
        metadata: Mapping[str, Any] | None = None,
        mimetype: str | None = None,
    ) -> File:
        """Upload one file. See :meth:`Job.upload`."""
        _check_name(named.name)
        mimetype = mimetype or guess_mimetype(named.name)
        source = Source(named.name, lambda: named.path.open("rb"))
        if self._reporter is None:
            return describe_source(target.property, source, digests(source.chunks()), mimetype, metadata)
        with _showing_progress(self._reporter, f"uploading {target.property}: {named.name}") as show:
            return send_file(
                self._reporter.call,
                target.path("upload"),
                source,
                contents=self._contents,
                metadata=metadata,
                mimetype=mimetype,
                on_progress=show,
                patience_seconds=self._patience_seconds,
            )

    def _fetch(self, target: FileProperty, index: int, choose: Callable[[File], Path]) -> Path:
        if self._reporter is None:
            raise AsyncActionError("This process was not started by Airflow, so it has no files to download")
        title = f"{target.property}[{index}]"
        began_at = time.monotonic()
        with _showing_progress(self._reporter, f"downloading {title}") as show:
            file, path = fetch_file(
                self._reporter.call,
                f"{target.path('download')}/{index}",
                choose,
                contents=self._contents,
                on_progress=show,
                patience_seconds=self._patience_seconds,
            )
        transfer = format_transfer(file.size_bytes, time.monotonic() - began_at)
        self._log(f"downloaded {title} {file.name}: {transfer}")
        return path


@contextlib.contextmanager
def _showing_progress(reporter: Reporter, message: str) -> Iterator[Progress]:
    """Show the progress of a transfer as that of the job, at most once per second."""
    text = clean_text(message)
    is_shown = False
    next_at = time.monotonic() + _PROGRESS_SECONDS

    def show(transferred_bytes: int, size_bytes: int) -> None:
        nonlocal is_shown, next_at
        if time.monotonic() < next_at:
            return
        is_shown, next_at = True, time.monotonic() + _PROGRESS_SECONDS
        percent = round(100 * transferred_bytes / max(size_bytes, 1), 1)
        reporter.show_transfer({"progress": percent, "message": text})

    try:
        yield show
    finally:
        if is_shown:
            reporter.end_transfer()


def has_file(send: Send, target: FileProperty, index: int) -> bool:
    """Return whether a property has a file with this index.

    :raises ServerError: the request was refused or could not be delivered
    """
    try:
        send(Request("GET", f"{target.path('download')}/{index}"))
    except ServerError as error:
        if _is_no_such_file(error):
            return False
        raise
    return True


def find_files(path: str | os.PathLike[str]) -> list[NamedFile]:
    """Find the files of a path, a folder or a pattern, sorted by name.

    Links to files are followed, links to folders below the folder are not.

    :raises FileNotFoundError: no file matches
    :raises AsyncActionError: a file has an invalid name
    """
    root = Path(path)
    if root.is_file():
        base, paths = root.parent, [root]
    elif root.is_dir():
        base, paths = root, [Path(parent, name) for parent, _, names in os.walk(root) for name in names]
    else:
        base = _before_wildcards(root)
        paths = [Path(each) for each in glob.glob(str(root), recursive=True)]  # noqa: PTH207
    found = [NamedFile(each.relative_to(base).as_posix(), each) for each in paths if each.is_file()]
    if not found:
        raise FileNotFoundError(f"No such file: {os.fspath(path)}")
    for each in found:
        _check_name(each.name)
    return sorted(found, key=lambda each: each.name)


def _before_wildcards(pattern: Path) -> Path:
    base = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        base /= part
    return base


def _below(folder: Path, file: File) -> Path:
    """Return the path of a file in a folder.

    :raises AsyncActionError: the file's name or an existing link points outside the folder
    """
    path = folder / file.name
    within = path.parent.resolve()
    if not is_file_name(file.name) or folder.resolve() not in (within, *within.parents):
        raise AsyncActionError(
            f"The file name {file.name!r} points outside the folder {folder}. Specify the path of the file"
        )
    return path


def _check_name(name: str) -> None:
    if not is_file_name(name):
        raise AsyncActionError(
            f"Invalid file name {name!r}: it must be a relative path of at most {MAX_FILE_NAME_CHARS}"
            " characters, without '..', backslashes or control characters"
        )


def guess_mimetype(name: str) -> str:
    """Guess the media type of a file from its name."""
    mimetype, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        mimetype = _MIMETYPES_OF_ENCODINGS.get(encoding)
    return mimetype or DEFAULT_MIMETYPE


def _is_no_such_file(error: ServerError) -> bool:
    return (error.status, error.code) == (HTTPStatus.NOT_FOUND, "no_such_file")
