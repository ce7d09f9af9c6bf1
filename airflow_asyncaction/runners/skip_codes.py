# SPDX-License-Identifier: Apache-2.0
"""Exit codes that skip the task: ``skip_on_exit_code``, as in Airflow's operators."""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import replace
from typing import Any

from airflow_asyncaction.protocol.lifecycle import Exit

_CODES = range(256)


def parse_skip_codes(value: Any) -> tuple[int, ...]:
    """Return the exit codes of a ``skip_on_exit_code``, in ascending order.

    :param value: an exit code, a container of them, or ``None``
    :raises ValueError: it is none of these
    """
    if value is None:
        return ()
    is_code = isinstance(value, int) and not isinstance(value, bool)
    codes = [value] if is_code else value
    if isinstance(codes, str | bytes) or not isinstance(codes, Container):
        raise _invalid(value)
    if isinstance(codes, Collection) and not all(code in _CODES for code in codes):
        raise _invalid(value)
    return tuple(code for code in _CODES if code in codes)


def mark_skip(exit_: Exit, codes: Collection[int]) -> Exit:
    """Return the exit, marked as a skip if its code is one of these."""
    if exit_.reason is None and exit_.code in codes:
        return replace(exit_, is_skip=True)
    return exit_


def _invalid(value: Any) -> ValueError:
    return ValueError(
        f"skip_on_exit_code is {value!r}: it must be an exit code from 0 to 255, or a collection of them"
    )
