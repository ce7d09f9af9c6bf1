# SPDX-License-Identifier: Apache-2.0
"""Where actions are kept: Airflow's own metadata database. The only place with SQL."""

from __future__ import annotations
