# SPDX-License-Identifier: Apache-2.0
"""What the developers run: a whole Airflow of one's own, PostgreSQL, the demo, the zipapp."""

from __future__ import annotations
