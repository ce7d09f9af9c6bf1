# SPDX-License-Identifier: Apache-2.0
"""Triggers: follow the jobs of deferred tasks in the triggerer."""

from __future__ import annotations
