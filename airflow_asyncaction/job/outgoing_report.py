# SPDX-License-Identifier: Apache-2.0
"""Outgoing report: a report that is being sent, with the nonce under which it is resent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_asyncaction.job.log_queue import encode_line
from airflow_asyncaction.job.transport import Request
from airflow_asyncaction.protocol.reports import LogLine


@dataclass(frozen=True)
class OutgoingReport:
    """A report that is kept with its nonce until the server responds.

    :param terminal: fields of the job's end, if this is the terminal report
    """

    request: Request
    fields: Mapping[str, Any]
    lines: Sequence[LogLine]
    terminal: Mapping[str, Any] | None

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], lines: Sequence[LogLine], terminal: Mapping[str, Any] | None
    ) -> OutgoingReport:
        """Return a report with a new nonce. ``fields`` must include those of ``terminal``."""
        return cls(Request("POST", "/status", encode_report(fields, lines)), fields, lines, terminal)

    @property
    def is_heartbeat(self) -> bool:
        """Whether the report is empty."""
        return not self.fields and not self.lines

    @property
    def can_be_skipped(self) -> bool:
        """Whether it may be skipped to let later reports through. A terminal report only loses log lines."""
        return not self.is_heartbeat and (self.terminal is None or bool(self.lines))


def heartbeat() -> OutgoingReport:
    """Return an empty report."""
    return OutgoingReport.of({}, (), None)


def encode_report(fields: Mapping[str, Any], lines: Sequence[LogLine] = ()) -> bytes:
    """Serialize a report. The body of a heartbeat is empty."""
    if not fields and not lines:
        return b""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    head = text.encode("utf-8", "replace")  # host names may contain lone surrogates
    if not lines:
        return head
    comma = b"," if fields else b""
    return head[:-1] + comma + b'"logs":[' + b",".join(map(encode_line, lines)) + b"]}"
