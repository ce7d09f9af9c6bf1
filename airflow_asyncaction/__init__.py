# SPDX-License-Identifier: Apache-2.0
"""Run any program as an Airflow task that reports back over signed HTTP.

This module imports nothing, so that a job can carry ``protocol`` and ``job`` without Airflow.
"""

from __future__ import annotations

__version__ = "0.1.0"
