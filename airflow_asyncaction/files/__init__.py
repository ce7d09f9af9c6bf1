# SPDX-License-Identifier: Apache-2.0
"""Files of actions: records are in the database (``store``), contents in file stores (``files.stores``)."""

from __future__ import annotations
