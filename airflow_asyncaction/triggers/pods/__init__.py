# SPDX-License-Identifier: Apache-2.0
"""Pods of deferred tasks: their trigger, and the watches that the triggers of a triggerer share."""

from __future__ import annotations
