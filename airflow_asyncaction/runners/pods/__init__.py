# SPDX-License-Identifier: Apache-2.0
"""Pods of actions: manifests, failures and logs, shared by workers and triggerers."""

from __future__ import annotations
