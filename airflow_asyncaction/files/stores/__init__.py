# SPDX-License-Identifier: Apache-2.0
"""Where contents of files are kept: a folder, or an object store that Airflow has a connection to."""

from __future__ import annotations
