# SPDX-License-Identifier: Apache-2.0
"""Files of actions: what is known of them (``store``) and what is kept of them (``filestores``), together."""

from __future__ import annotations
