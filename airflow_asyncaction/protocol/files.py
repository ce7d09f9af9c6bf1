# SPDX-License-Identifier: Apache-2.0
"""Files of actions: how they are named, announced and described (PROTOCOL.md, 3, files)."""

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
"""The name by which every deployment's default file store is known to jobs."""

MAX_FILE_NAME_CHARS = 255
MAX_MIMETYPE_CHARS = 127
MAX_INDEX = 2**31 - 1
DEFAULT_MIMETYPE = "application/octet-stream"

_PROPERTY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MIMETYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;\s*[\w!#$&^.+-]+=[\w!#$&^.+-]+)*", re.ASCII)
_MAX_SIZE = 2**63 - 1


class Role(StrEnum):
    """What a file is to its action."""

    INPUT = "input"  # the task gave it to the job
    OUTPUT = "output"  # the job left it


@keyword_dataclass
class Announcement:
    """What is said of a content before it is sent.

    :param md5: lower-case hex, as ``challenge`` and ``sha256``; ``digests`` says what they are of
    :param name: relative POSIX path; ``None`` if it was not said
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
        """Read the body of ``PUT /upload``.

        :raises MalformedRequest: it is not one; its field is named
        """
        name, sha256 = fields.get("name"), fields.get("sha256")
        return cls(
            md5=_digest(fields, "hash", _MD5),
            challenge=_digest(fields, "challenge", _MD5),
            sha256=None if sha256 is None else _digest(fields, "sha256", _SHA256),
            size_bytes=_size(fields),
            name=None if name is None else checked_name(name),
            mimetype=_mimetype(fields),
            metadata=_metadata(fields),
        )


@keyword_dataclass
class FileRecord:
    """A file that is attached to an action, as its task and later tasks know it.

    :param action: uuid of the action
    :param store: name of the file store, and ``uri`` where in it the content is
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
        """Return it as it stands in the XCom ``files``."""
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
            "metadata": strict_json.for_xcom(self.metadata),
            "action": self.action,
        }

    def to_map(self) -> dict[str, Any]:
        """Return it as a job is told of it: never where it is kept, nor its challenge."""
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
    """Names one attached file; who knows its uuid and sha256 was given it."""

    action: str
    property: str
    index: int
    sha256: str

    @classmethod
    def from_json(cls, fields: Any) -> FileReference:
        """Read what :meth:`FileRecord.to_json` wrote.

        :raises MalformedRequest: it is not that
        """
        if not isinstance(fields, Mapping):
            raise MalformedRequest("file is not an object", field="file")
        action, index = fields.get("action"), fields.get("index")
        if not isinstance(action, str) or not is_job_id(action):
            raise MalformedRequest("file.action is not a UUID", field="file")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= MAX_INDEX:
            raise MalformedRequest("file.index is not an index", field="file")
        return cls(
            action, checked_property(fields.get("property")), index, _digest(fields, "sha256", _SHA256)
        )


def checked_property(name: Any) -> str:
    """Return the name of a property.

    :raises MalformedRequest: it is none
    """
    if not isinstance(name, str) or not _PROPERTY.fullmatch(name):
        raise MalformedRequest(
            "A property is named by 1 to 64 of A-Z a-z 0-9 _, the first no digit", field="property"
        )
    return name


def checked_name(name: Any) -> str:
    """Return the name of a file: a relative POSIX path, safe to be written below a folder.

    :raises MalformedRequest: it is not
    """
    if not isinstance(name, str) or not is_file_name(name):
        raise MalformedRequest(
            f"name is not a relative path of at most {MAX_FILE_NAME_CHARS} characters without '.', '..',"
            " backslashes and control characters",
            field="name",
        )
    return name


def is_file_name(name: str) -> bool:
    """Tell whether a name is a relative path that stays below its folder (of a POSIX system)."""
    if len(name) > MAX_FILE_NAME_CHARS or "\\" in name:
        return False
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):  # control, lone surrogates
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _digest(fields: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value.lower()):
        raise MalformedRequest(f"{name} is not a hex digest of the right length", field=name)
    return value.lower()


def _size(fields: Mapping[str, Any]) -> int | None:
    size = fields.get("size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise MalformedRequest("size is not a number of bytes", field="size")
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
        raise MalformedRequest("mimetype is not one, such as text/csv", field="mimetype")
    return mimetype


def _metadata(fields: Mapping[str, Any]) -> JsonText:
    metadata = fields.get("metadata")
    if metadata is None:
        return JsonText("{}")
    if not isinstance(metadata, dict):
        raise MalformedRequest("metadata is not an object", field="metadata")
    return strict_json.dumps(metadata)
