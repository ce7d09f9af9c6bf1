# SPDX-License-Identifier: Apache-2.0
"""File rules: what a job may do with files, and the answers. API server and test server share them."""

from __future__ import annotations

from typing import Any, Protocol

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.protocol.actions import Action
from airflow_asyncaction.protocol.files import FileRecord, Role


class Announced(Protocol):
    """What a client announced about a file: an :class:`Announcement`, or a row that stores one."""

    @property
    def md5(self) -> str:
        """Lower-case hex, as all digests."""

    @property
    def challenge(self) -> str:
        """See ``digests``."""

    @property
    def sha256(self) -> str | None:
        """Where it was given."""

    @property
    def size_bytes(self) -> int | None:
        """Where it was given."""


class Arrived(Protocol):
    """What was measured of an uploaded file."""

    @property
    def md5(self) -> str:
        """Lower-case hex, as all digests."""

    @property
    def challenge(self) -> str | None:
        """``None`` if it was not computed."""

    @property
    def sha256(self) -> str:
        """Of all of it."""

    @property
    def size_bytes(self) -> int:
        """Of all of it."""


def check_lives(action: Action) -> None:
    """Make sure that a job may still send or get files.

    :raises FileRefused: its action is over
    """
    if action.fenced:
        raise FileRefused("A newer attempt took over, or Airflow ended this action: stop", code="superseded")
    if action.is_done:
        raise FileRefused(
            "The action has ended: its job can no longer upload or download files", code="already_ended"
        )


def difference(announced: Announced, arrived: Arrived) -> str | None:
    """Return how a content differs from what was announced, if it does."""
    if announced.size_bytes not in (None, arrived.size_bytes):
        return f"The content has {arrived.size_bytes} bytes, not the announced {announced.size_bytes}"
    if announced.md5 != arrived.md5:
        return "The content has another md5 than the announced hash"
    if arrived.challenge not in (None, announced.challenge):
        return "The content has another challenge than the announced one"
    if announced.sha256 not in (None, arrived.sha256):
        return "The content has another sha256 than the announced one"
    return None


def hash_mismatch(said: str) -> FileRefused:
    """Return the refusal of a content that differs from what was announced."""
    message = f"{said}: nothing was kept. If it has changed meanwhile, announce it anew"
    return FileRefused(message, code="hash_mismatch")


def no_such_file() -> FileRefused:
    """Return the refusal of a file that is not there."""
    return FileRefused("No such file is attached to the action", code="no_such_file")


def not_awaited() -> FileRefused:
    """Return the refusal of a content whose announcement is gone."""
    return FileRefused("This upload is no longer expected: announce the file again", code="no_such_file")


def not_own() -> FileRefused:
    """Return the refusal of a file for another action."""
    return FileRefused("A job may upload files to its own action only", code="not_yours")


def not_readable() -> FileRefused:
    """Return the refusal of another action's files."""
    return FileRefused(
        "A job may read its own action's files, and those of upstream tasks in its Dag run", code="not_yours"
    )


def content_missing() -> FileRefused:
    """Return the refusal to complete a file whose content did not arrive."""
    return FileRefused(
        "Nothing has arrived at the URL of this file: send it there first", code="content_missing"
    )


def property_taken(property_: str, *, holds: Role, wanted: Role) -> FileRefused:
    """Return the refusal of a property that holds inputs for outputs, or the other way round."""
    return FileRefused(
        f"{property_} holds {holds.value}s of this action: use another name for {wanted.value}s",
        code="property_taken",
    )


def too_many_files(most: int) -> FileRefused:
    """Return the refusal of one more file."""
    return FileRefused(
        f"The action has {most} files, and may have no more ([asyncaction] max_files)", code="too_many_files"
    )


def check_size(size_bytes: int | None, most: int) -> None:
    """Make sure that a file of this size may be announced.

    :raises FileRefused: it may not
    """
    if size_bytes is not None and size_bytes > most:
        raise FileRefused(f"The file exceeds {most} bytes ([asyncaction] max_file_bytes)", code="too_large")


def check_content_size(size_bytes: int, most: int) -> None:
    """Check the number of bytes received for a content.

    :raises FileRefused: it may not
    """
    if size_bytes > most:
        raise FileRefused(
            f"The content has more than the {most} bytes that were announced or allowed", code="too_large"
        )


def attached_answer(file: FileRecord) -> dict[str, Any]:
    """Return what tells that a file is attached."""
    return {"done": True, "Map": file.to_map()}


def location_answer(url: str, file: FileRecord) -> dict[str, Any]:
    """Return what tells where to get a file."""
    return {"Location": url, "Map": file.to_map()}


def upload_answer(index: int, url: str | None, *, is_direct: bool) -> dict[str, Any]:
    """Return what to do to have a file attached.

    :param url: where to PUT the content; ``None``: nothing, it is attached
    :param is_direct: whether the server must be told when the content is there
    """
    if url is None:
        return {"done": True, "index": index}
    return {"done": False, "index": index, "url": url, "method": "PUT", "complete": is_direct}
