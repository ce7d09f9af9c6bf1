# SPDX-License-Identifier: Apache-2.0
"""Decisions: the results of ``lifecycle.decide``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from airflow_asyncaction.protocol.actions import Action

_REFUSALS = {
    "already_ended": "The action has already ended, and this end differs from the first one, which stands",
    "superseded": "A newer attempt took over, or Airflow ended this action: stop the job",
    "nonce_reused": "A different report was sent with this nonce: use a new nonce for each report",
}


@dataclass(frozen=True)
class EarlierReport:
    """A report with the same key (nonce) that was received before.

    :param body_sha256: hex
    :param refused_with: the code with which it was refused; ``None`` if it was accepted
    """

    body_sha256: str
    refused_with: str | None


@dataclass(frozen=True)
class Accepted:
    """The message was accepted. ``action`` is the resulting action."""

    action: Action


@dataclass(frozen=True)
class Duplicate:
    """The report was accepted before: return the action, change nothing."""


@dataclass(frozen=True)
class Refused:
    """The report was refused.

    :param code: ``already_ended``, ``superseded`` or ``nonce_reused``
    :param repeated: whether the same refusal is already recorded
    """

    code: str
    message: str
    repeated: bool = False

    @classmethod
    def because(cls, code: str) -> Refused:
        """Return the refusal with this code."""
        return cls(code, _REFUSALS.get(code, "This report was refused before"))


Decision = Union[Accepted, Duplicate, Refused]
