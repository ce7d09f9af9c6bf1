# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of this package, each against a baseline measured in the same run."""

from __future__ import annotations
