# SPDX-License-Identifier: Apache-2.0
"""Web app: the Flask app that serves jobs, tasks and users, and the web page of async actions."""

from __future__ import annotations
