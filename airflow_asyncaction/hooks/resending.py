# SPDX-License-Identifier: Apache-2.0
"""Sending a request again until it is answered, for hooks that wait in their own thread."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.protocol.resending import may_pass

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0


def until_answered(attempt: Callable[[], T], patience: timedelta, warn: Callable[..., object]) -> T:
    """Return what an attempt returns. After an error that may pass it is repeated, with growing pauses.

    :param warn: logs each error that is waited for, like ``Logger.warning``
    :raises ServerError: it will not pass, or the patience is over
    """
    give_up_at = time.monotonic() + patience.total_seconds()
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return attempt()
        except ServerError as error:
            wait_seconds = max(error.retry_after_seconds, pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            if not may_pass(error) or time.monotonic() + wait_seconds > give_up_at:
                raise
            warn("%s; trying again in %.1f s", error, wait_seconds)
        time.sleep(wait_seconds)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def is_hang_up(error: BaseException | None) -> bool:
    """Tell whether below a library's error is that the other end has closed the connection."""
    while error is not None:
        if isinstance(error, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return not isinstance(error, ConnectionRefusedError)
        below = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
        error = next((each for each in below if isinstance(each, BaseException)), None)
    return False
