# SPDX-License-Identifier: Apache-2.0
"""How workers and triggerers reach the API server: HTTP only."""

from __future__ import annotations
