# SPDX-License-Identifier: Apache-2.0
"""File stores: keep the contents of files in a folder, or in an object store with an Airflow connection."""

from __future__ import annotations
