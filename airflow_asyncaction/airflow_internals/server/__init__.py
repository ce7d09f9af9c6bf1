# SPDX-License-Identifier: Apache-2.0
"""Airflow internals that need the metadata database: tables, models, sessions, auth manager, commands."""
