# SPDX-License-Identifier: Apache-2.0
"""What watches the jobs of deferred tasks, in the triggerer."""

from __future__ import annotations
