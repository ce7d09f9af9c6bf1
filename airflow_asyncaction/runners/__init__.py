# SPDX-License-Identifier: Apache-2.0
"""What starts, watches and stops jobs, on the worker."""

from __future__ import annotations
