# SPDX-License-Identifier: Apache-2.0
"""How much the tests repeat: enough for a commit, or as much as ``make nightly`` has time for."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

NIGHTLY = "ASYNCACTION_TEST_NIGHTLY" in os.environ

EXAMPLES = 500 if NIGHTLY else 25
"""Inputs for each property."""


def load_profile() -> None:
    """Let hypothesis try :data:`EXAMPLES` inputs, however long each takes."""
    settings.register_profile(
        "scale", max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("scale")
