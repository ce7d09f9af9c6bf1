# SPDX-License-Identifier: Apache-2.0
"""Airflow internals beside the metadata database: tables, models, sessions, auth manager, commands."""
