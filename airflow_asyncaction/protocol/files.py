# SPDX-License-Identifier: Apache-2.0
"""Files of actions: names, announcements and descriptions (PROTOCOL.md, section 3, files)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.compat import StrEnum, keyword_dataclass
from airflow_asyncaction.protocol.job_info import is_job_id
from airflow_asyncaction.protocol.strict_json import JsonText

DEFAULT_STORE = "default"
"""Name by which jobs refer to the default file store of any deployment."""

MAX_FILE_NAME_CHARS = 255
MAX_MIMETYPE_CHARS = 127
MAX_INDEX = 2**31 - 1
DEFAULT_MIMETYPE = "application/octet-stream"

_PROPERTY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MD5_DIGITS = 32
_SHA256_DIGITS = 64
_MIMETYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;\s*[\w!#$&^.+-]+=[\w!#$&^.+-]+)*", re.ASCII)
_MAX_SIZE = 2**63 - 1


class Role(StrEnum):
    """Role of a file in its action."""

    INPUT = "input"  # attached by the task
    OUTPUT = "output"  # uploaded by the job


@keyword_dataclass
class Announcement:
    """Description of a file that is sent before its content.

    :param md5: lower-case hex, like ``challenge`` and ``sha256``. See ``digests``
    :param name: relative POSIX path; ``None`` if missing
    """

    md5: str
    challenge: str
    sha256: str | None = None
    size_bytes: int | None = None
    name: str | None = None
    mimetype: str = DEFAULT_MIMETYPE
    metadata: JsonText = JsonText("{}")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Announcement:
        """Parse the body of ``PUT /upload``.

        :raises MalformedRequest: a field is missing or invalid
        """
        name, sha256 = fields.get("name"), fields.get("sha256")
        return cls(
            md5=_digest(fields, "hash", _MD5_DIGITS),
            challenge=_digest(fields, "challenge", _MD5_DIGITS),
            sha256=None if sha256 is None else _digest(fields, "sha256", _SHA256_DIGITS),
            size_bytes=_size(fields),
            name=None if name is None else checked_name(name),
            mimetype=_mimetype(fields),
            metadata=_metadata(fields),
        )


@keyword_dataclass
class FileRecord:
    """A file that is attached to an action, as tasks see it.

    :param action: UUID of the action
    :param store: name of the file store
    :param uri: location of the content in the file store
    """

    action: str
    property: str
    index: int
    name: str
    size_bytes: int
    mimetype: str
    md5: str
    sha256: str
    store: str
    uri: str
    metadata: JsonText = JsonText("{}")

    def to_json(self) -> dict[str, Any]:
        """Return its entry in the XCom ``files``."""
        return {
            "name": self.name,
            "property": self.property,
            "index": self.index,
            "size": self.size_bytes,
            "mimetype": self.mimetype,
            "md5": self.md5,
            "sha256": self.sha256,
            "store": self.store,
            "uri": self.uri,
            "metadata": strict_json.xcom_from_text(self.metadata),
            "action": self.action,
        }

    def to_map(self) -> dict[str, Any]:
        """Return the ``Map`` of responses to jobs. It never contains the location or the challenge."""
        return {
            "name": self.name,
            "size": self.size_bytes,
            "mimetype": self.mimetype,
            "hash": self.md5,
            "sha256": self.sha256,
            "metadata": strict_json.loads(self.metadata),
            "index": self.index,
        }


@dataclass(frozen=True)
class FileReference:
    """Reference to an attached file. Its SHA-256 is known only to those who may see the file."""

    action: str
    property: str
    index: int
    sha256: str

    @classmethod
    def from_json(cls, fields: Any) -> FileReference:
        """Parse what :meth:`FileRecord.to_json` returned.

        :raises MalformedRequest: a field is missing or invalid
        """
        if not isinstance(fields, Mapping):
            raise MalformedRequest("file must be an object", field="file")
        action, index = fields.get("action"), fields.get("index")
        if not isinstance(action, str) or not is_job_id(action):
            raise MalformedRequest("file.action must be a UUID", field="file")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= MAX_INDEX:
            raise MalformedRequest(f"file.index must be an integer from 0 to {MAX_INDEX}", field="file")
        return cls(
            action, checked_property(fields.get("property")), index, _digest(fields, "sha256", _SHA256_DIGITS)
        )


def checked_property(name: Any) -> str:
    """Return the name of a property after validation.

    :raises MalformedRequest: it is invalid
    """
    if not isinstance(name, str) or not _PROPERTY.fullmatch(name):
        raise MalformedRequest(
            "A property name must be 1 to 64 characters of A-Z, a-z, 0-9 and _, and must not start with a"
            " digit",
            field="property",
        )
    return name


def checked_name(name: Any) -> str:
    """Return the name of a file after validation: a relative POSIX path that is safe inside a folder.

    :raises MalformedRequest: it is invalid
    """
    if not isinstance(name, str) or not is_file_name(name):
        raise MalformedRequest(
            f"name must be a relative path of at most {MAX_FILE_NAME_CHARS} characters. No part may be empty,"
            " '.' or '..', and backslashes and control characters are not allowed",
            field="name",
        )
    return name


def is_file_name(name: str) -> bool:
    """Return whether a name is a relative POSIX path that stays below its folder."""
    if len(name) > MAX_FILE_NAME_CHARS or "\\" in name:
        return False
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):  # control, lone surrogates
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _digest(fields: Mapping[str, Any], name: str, digits: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", value.lower()):
        raise MalformedRequest(f"{name} must be {digits} hex digits", field=name)
    return value.lower()


def _size(fields: Mapping[str, Any]) -> int | None:
    size = fields.get("size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise MalformedRequest("size must be a number of bytes", field="size")
    return size


def _mimetype(fields: Mapping[str, Any]) -> str:
    mimetype = fields.get("mimetype") or None
    if mimetype is None:
        return DEFAULT_MIMETYPE
    if (
        not isinstance(mimetype, str)
        or len(mimetype) > MAX_MIMETYPE_CHARS
        or not _MIMETYPE.fullmatch(mimetype)
    ):
        raise MalformedRequest(
            f"mimetype must be a media type such as text/csv, of at most {MAX_MIMETYPE_CHARS} characters",
            field="mimetype",
        )
    return mimetype


def _metadata(fields: Mapping[str, Any]) -> JsonText:
    metadata = fields.get("metadata")
    if metadata is None:
        return JsonText("{}")
    if not isinstance(metadata, dict):
        raise MalformedRequest("metadata must be an object", field="metadata")
    return strict_json.dumps(metadata)
