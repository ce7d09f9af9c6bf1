# SPDX-License-Identifier: Apache-2.0
"""Flask blueprints of all routes: each parses a request, calls a service and answers."""

from __future__ import annotations
