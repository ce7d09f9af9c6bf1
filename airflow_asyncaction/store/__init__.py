# SPDX-License-Identifier: Apache-2.0
"""Store: actions in Airflow's metadata database. Besides ``airflow_internals``, the only package with SQL."""

from __future__ import annotations
