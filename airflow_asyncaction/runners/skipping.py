# SPDX-License-Identifier: Apache-2.0
"""Exit codes by which a job skips itself, as ``skip_on_exit_code`` of Airflow's operators says."""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import replace
from typing import Any

from airflow_asyncaction.protocol.lifecycle import Exit

_CODES = range(256)


def skip_codes(given: Any) -> tuple[int, ...]:
    """Return the exit codes that an author gave, in order.

    :param given: a code, or a container of codes; ``None``: there are none
    :raises ValueError: it is neither
    """
    if given is None:
        return ()
    is_code = isinstance(given, int) and not isinstance(given, bool)
    codes = [given] if is_code else given
    if isinstance(codes, str | bytes) or not isinstance(codes, Container):
        raise _wrong(given)
    if isinstance(codes, Collection) and not all(code in _CODES for code in codes):
        raise _wrong(given)
    return tuple(code for code in _CODES if code in codes)


def skipping(exit_: Exit, codes: Collection[int]) -> Exit:
    """Return an exit, marked if its code is one of those by which the job skips itself."""
    if exit_.reason is None and exit_.code in codes:
        return replace(exit_, is_skip=True)
    return exit_


def _wrong(given: Any) -> ValueError:
    return ValueError(f"skip_on_exit_code is {given!r}: it must be an exit code from 0 to 255, or several")
