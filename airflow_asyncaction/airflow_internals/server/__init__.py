# SPDX-License-Identifier: Apache-2.0
"""Airflow internals for servers and commands: tables, models, sessions, auth manager, metrics."""
