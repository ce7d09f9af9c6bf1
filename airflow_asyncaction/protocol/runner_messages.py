# SPDX-License-Identifier: Apache-2.0
"""Runner messages: what a runner tells the API server about a job, and their JSON form.

The JSON form is not part of PROTOCOL.md: see ``tasks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Union

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.compat import assert_never
from airflow_asyncaction.protocol.json_fields import enum_field, optional_field, typed_field
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.masking import Masker
from airflow_asyncaction.protocol.reports import MAX_MESSAGE_CHARS, MAX_NAME_CHARS, cut_tail

RunnerMessage = Union[Launched, Exit, Stop, Abandon]


def mask_message(message: RunnerMessage, masker: Masker) -> RunnerMessage:
    """Return a message without the secrets that it may contain."""
    if isinstance(message, Launched):
        return Launched(masker.json(dict(message.job)))
    if isinstance(message, Exit):
        text = None if message.message is None else masker.text(message.message)
        return replace(message, message=text, tail=tuple(map(masker.line, message.tail)))
    return message


def message_to_json(message: RunnerMessage) -> dict[str, Any]:
    """Return the body of ``POST /task/message``."""
    if isinstance(message, Launched):
        return {"kind": "launched", "job": dict(message.job)}
    if isinstance(message, Exit):
        return {"kind": "exit", **vars(message), **_shortened(message)}
    if isinstance(message, Stop):
        return {"kind": "stop", "reason": message.reason.value}
    if not isinstance(message, Abandon):
        assert_never(message)
    return {"kind": "abandon"}


def message_from_json(fields: Mapping[str, Any]) -> RunnerMessage:
    """Parse what :func:`message_to_json` returned.

    :raises MalformedRequest: the body is invalid
    """
    kind = typed_field(fields, "kind", str)
    if kind == "launched":
        return Launched(typed_field(fields, "job", dict))
    if kind == "exit":
        return _exit(fields)
    if kind == "stop":
        return Stop(enum_field(fields, "reason", StopReason))
    if kind == "abandon":
        return Abandon()
    raise MalformedRequest("kind must be launched, exit, stop or abandon", field="kind")


def _shortened(exit_: Exit) -> dict[str, Any]:
    """Return the texts of an exit, cut to what the server stores: a job's output has no size limit."""
    return {
        "reason": _cut(exit_.reason, MAX_NAME_CHARS),
        "message": _cut(exit_.message, MAX_MESSAGE_CHARS),
        "tail": list(cut_tail(exit_.tail)),
    }


def _exit(fields: Mapping[str, Any]) -> Exit:
    tail = typed_field(fields, "tail", list)
    return Exit(
        code=optional_field(fields, "code", int),
        signal=optional_field(fields, "signal", str),
        reason=_cut(optional_field(fields, "reason", str), MAX_NAME_CHARS),
        message=_cut(optional_field(fields, "message", str), MAX_MESSAGE_CHARS),
        tail=tuple(line for line in tail if isinstance(line, str)),
        is_seen=optional_field(fields, "is_seen", bool) is not False,
        is_skip=optional_field(fields, "is_skip", bool) is True,
    )


def _cut(text: str | None, max_chars: int) -> str | None:
    return None if text is None else text[:max_chars]
