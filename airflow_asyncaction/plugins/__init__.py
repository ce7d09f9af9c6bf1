# SPDX-License-Identifier: Apache-2.0
"""What Airflow's plugin manager loads, in every process of Airflow: nothing heavy is imported here."""

from __future__ import annotations
