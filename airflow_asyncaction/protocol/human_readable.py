# SPDX-License-Identifier: Apache-2.0
"""Human-readable sizes and transfer rates, for logs."""

from __future__ import annotations

_KB = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB")


def format_transfer(size_bytes: int, seconds: float) -> str:
    """Format a transfer, such as ``12.3 MB in 0.40 s, 30.8 MB/s`` (1 MB is 10^6 bytes)."""
    rate = size_bytes / max(seconds, 0.001) / _KB**2
    return f"{format_size(size_bytes)} in {seconds:.2f} s, {rate:.1f} MB/s"


def format_size(size_bytes: int) -> str:
    """Format a size, such as ``12.3 MB``."""
    size, unit = float(size_bytes), 0
    while size >= _KB and unit < len(_UNITS) - 1:
        size, unit = size / _KB, unit + 1
    return f"{size_bytes} B" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
