# SPDX-License-Identifier: Apache-2.0
"""What this package costs, beside what Airflow's own parts cost in the same run."""

from __future__ import annotations
