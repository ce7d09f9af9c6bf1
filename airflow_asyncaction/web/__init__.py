# SPDX-License-Identifier: Apache-2.0
"""The routes that jobs and tasks call: one lean Flask app."""

from __future__ import annotations
