# SPDX-License-Identifier: Apache-2.0
"""Human-readable sizes and transfer rates, for logs."""

from __future__ import annotations

_KIB = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_transfer(size_bytes: int, seconds: float) -> str:
    """Format a transfer, such as ``12.3 MiB in 0.40 s, 30.8 MiB/s``."""
    rate = size_bytes / max(seconds, 0.001) / _KIB**2
    return f"{format_size(size_bytes)} in {seconds:.2f} s, {rate:.1f} MiB/s"


def format_size(size_bytes: int) -> str:
    """Format a size, such as ``12.3 MiB``."""
    size, unit = float(size_bytes), 0
    while size >= _KIB and unit < len(_UNITS) - 1:
        size, unit = size / _KIB, unit + 1
    return f"{size_bytes} B" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
