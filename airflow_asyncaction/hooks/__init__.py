# SPDX-License-Identifier: Apache-2.0
"""Hooks: HTTP clients with which workers and triggerers reach API servers."""

from __future__ import annotations
