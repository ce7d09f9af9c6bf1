# SPDX-License-Identifier: Apache-2.0
"""Resending: which responses are transient (PROTOCOL.md, 3, sending again). All clients share this rule."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

_TRANSIENT = frozenset({408, 429})
_SERVER_ERRORS = range(500, 600)
_LONGEST_RETRY_AFTER_SECONDS = 60.0
_FINAL_CODES = frozenset({"bad_schema", "no_space"})  # they last until somebody fixes the cause


def is_worth_resending(status: int, code: str = "") -> bool:
    """Return whether a request that got this response may succeed if it is resent.

    :param code: the stable ``error`` of the response's body
    """
    return (status in _TRANSIENT or status in _SERVER_ERRORS) and code not in _FINAL_CODES


def retry_after_seconds(retry_after: str | None) -> float:
    """Parse a Retry-After header, seconds or a date, capped at a minute. Anything else is 0."""
    text = (retry_after or "").strip()
    try:
        if text.isascii() and text.isdigit():
            wanted = float(text)
        else:
            until = parsedate_to_datetime(text)
            wanted = (until.astimezone(timezone.utc) - datetime.now(timezone.utc)).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):
        return 0.0
    return min(max(wanted, 0.0), _LONGEST_RETRY_AFTER_SECONDS)
