# SPDX-License-Identifier: Apache-2.0
"""Files of actions: their records in ``store`` and their contents in ``files.stores``."""

from __future__ import annotations
