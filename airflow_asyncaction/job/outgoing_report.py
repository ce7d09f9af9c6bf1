# SPDX-License-Identifier: Apache-2.0
"""One report on its way to the server."""

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
    """A report. It is kept, nonce and all, until it is answered.

    :param terminal: what the job's end says, if this report carries it
    """

    request: Request
    fields: Mapping[str, Any]
    lines: Sequence[LogLine]
    terminal: Mapping[str, Any] | None

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], lines: Sequence[LogLine], terminal: Mapping[str, Any] | None
    ) -> OutgoingReport:
        """Return a report with a new nonce. ``fields`` include those of ``terminal``."""
        return cls(Request("POST", "/status", encode_report(fields, lines)), fields, lines, terminal)

    @property
    def is_heartbeat(self) -> bool:
        """Whether it says nothing but that the job is alive."""
        return not self.fields and not self.lines

    @property
    def can_be_skipped(self) -> bool:
        """Whether it may be dropped to let the job's end through. A terminal report loses only log lines."""
        return not self.is_heartbeat and (self.terminal is None or bool(self.lines))


def heartbeat() -> OutgoingReport:
    """Return a report that says nothing."""
    return OutgoingReport.of({}, (), None)


def encode_report(fields: Mapping[str, Any], lines: Sequence[LogLine] = ()) -> bytes:
    """Return the body of a report; of a heartbeat none."""
    if not fields and not lines:
        return b""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    head = text.encode("utf-8", "replace")  # a host's name may have lone surrogates
    if not lines:
        return head
    comma = b"," if fields else b""
    return head[:-1] + comma + b'"logs":[' + b",".join(map(encode_line, lines)) + b"]}"
