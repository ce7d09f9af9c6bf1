# SPDX-License-Identifier: Apache-2.0
"""Trigger of deferred pods, and the watches and logs that all triggers of a triggerer share."""

from __future__ import annotations
