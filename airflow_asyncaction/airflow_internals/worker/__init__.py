# SPDX-License-Identifier: Apache-2.0
"""Airflow internals in task processes and triggerers: supervisor, secrets masker, operators."""
