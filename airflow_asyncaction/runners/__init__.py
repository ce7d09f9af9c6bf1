# SPDX-License-Identifier: Apache-2.0
"""Runners: start, watch and stop jobs from the worker."""

from __future__ import annotations
