# SPDX-License-Identifier: Apache-2.0
"""Developer tools: a private Airflow deployment, PostgreSQL, a Kubernetes namespace, the demo, the zipapp."""

from __future__ import annotations
