# SPDX-License-Identifier: Apache-2.0
"""Flask blueprints of all routes. Each route parses a request, calls a service and returns its result."""

from __future__ import annotations
