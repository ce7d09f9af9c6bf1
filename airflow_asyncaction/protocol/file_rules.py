# SPDX-License-Identifier: Apache-2.0
"""File rules: checks and responses that the API server and the test server share."""

from __future__ import annotations

from typing import Any, Protocol

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.protocol.actions import Action
from airflow_asyncaction.protocol.digests import Digests
from airflow_asyncaction.protocol.files import FileRecord, Role


class Announced(Protocol):
    """An announced file: an :class:`Announcement`, or a row that stores one."""

    @property
    def md5(self) -> str:
        """Lower-case hex, like all digests."""

    @property
    def challenge(self) -> str:
        """See ``digests``."""

    @property
    def sha256(self) -> str | None:
        """``None`` if it was not announced."""

    @property
    def size_bytes(self) -> int | None:
        """``None`` if it was not announced."""


def check_not_ended(action: Action) -> None:
    """Check that the job of an action may still upload and download files.

    :raises FileRefused: the action has ended
    """
    if action.fenced:
        raise FileRefused("A newer attempt took over, or Airflow ended this action: stop", code="superseded")
    if action.is_done:
        raise FileRefused(
            "The action has ended. Its job can no longer upload or download files", code="already_ended"
        )


def describe_difference(announced: Announced, arrived: Digests) -> str | None:
    """Describe how content differs from its announcement. Return ``None`` if it does not."""
    if announced.size_bytes not in (None, arrived.size_bytes):
        return f"The content has {arrived.size_bytes} bytes, not the announced {announced.size_bytes}"
    if announced.md5 != arrived.md5:
        return "The MD5 of the content differs from the announced hash"
    if arrived.challenge not in (None, announced.challenge):
        return "The challenge of the content differs from the announced one"
    if announced.sha256 not in (None, arrived.sha256):
        return "The SHA-256 of the content differs from the announced one"
    return None


def hash_mismatch(difference: str) -> FileRefused:
    """Return the error for content that differs from its announcement."""
    message = f"{difference}. Nothing was stored. If the file has changed since, announce it again"
    return FileRefused(message, code="hash_mismatch")


def no_such_file() -> FileRefused:
    """Return the error for a file that does not exist."""
    return FileRefused("The action has no file with this property and index", code="no_such_file")


def not_expected() -> FileRefused:
    """Return the error for content whose announcement was deleted."""
    return FileRefused("This upload is no longer expected: announce the file again", code="no_such_file")


def not_own() -> FileRefused:
    """Return the error for an upload to another action."""
    return FileRefused("A job may only upload files to its own action", code="not_yours")


def not_readable() -> FileRefused:
    """Return the error for a download from another action."""
    return FileRefused(
        "A job may only download files of its own action and of upstream tasks in the same Dag run",
        code="not_yours",
    )


def content_missing() -> FileRefused:
    """Return the error for completing a file whose content did not arrive."""
    return FileRefused(
        "The object store has no content for this file. Upload it before you complete it",
        code="content_missing",
    )


def property_taken(property_: str, *, holds: Role, wanted: Role) -> FileRefused:
    """Return the error for outputs in a property that holds inputs, or the reverse."""
    return FileRefused(
        f"The property {property_!r} holds {holds.value}s. Use another property for {wanted.value}s",
        code="property_taken",
    )


def too_many_files(most: int) -> FileRefused:
    """Return the error for a file over the maximum number."""
    return FileRefused(
        f"The action already has {most} files, the maximum ([asyncaction] max_files)", code="too_many_files"
    )


def check_size(size_bytes: int | None, most: int) -> None:
    """Check the announced size of a file.

    :raises FileRefused: it exceeds the limit
    """
    if size_bytes is not None and size_bytes > most:
        raise FileRefused(
            f"The file is larger than {most} bytes ([asyncaction] max_file_bytes)", code="too_large"
        )


def check_content_size(size_bytes: int, most: int) -> None:
    """Check the number of bytes received.

    :raises FileRefused: it exceeds the announced size or the limit
    """
    if size_bytes > most:
        raise FileRefused(
            f"The content is larger than the announced or allowed {most} bytes", code="too_large"
        )


def attached_response(file: FileRecord) -> dict[str, Any]:
    """Return the response for a file that is attached."""
    return {"done": True, "Map": file.to_map()}


def location_response(url: str, file: FileRecord) -> dict[str, Any]:
    """Return the response with the URL of a file."""
    return {"Location": url, "Map": file.to_map()}


def upload_response(index: int, url: str | None = None, *, is_direct: bool = False) -> dict[str, Any]:
    """Return the response to an announcement.

    :param url: where to PUT the content; ``None`` if the file is already attached
    :param is_direct: whether the URL belongs to an object store, so that the client must complete the file
    """
    if url is None:
        return {"done": True, "index": index}
    return {"done": False, "index": index, "url": url, "method": "PUT", "complete": is_direct}
