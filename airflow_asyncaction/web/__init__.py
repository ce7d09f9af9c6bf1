# SPDX-License-Identifier: Apache-2.0
"""Web app: the Flask app that serves jobs, tasks, users and the page."""

from __future__ import annotations
