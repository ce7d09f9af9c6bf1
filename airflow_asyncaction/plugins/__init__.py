# SPDX-License-Identifier: Apache-2.0
"""Plugins: loaded by every Airflow process, so they import heavy modules only when needed."""

from __future__ import annotations
