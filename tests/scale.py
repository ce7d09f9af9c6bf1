# SPDX-License-Identifier: Apache-2.0
"""Scale of repeated tests: small for a commit, large for ``make nightly``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

NIGHTLY = "ASYNCACTION_TEST_NIGHTLY" in os.environ

EXAMPLES = 500 if NIGHTLY else 25
"""Number of inputs for each property."""


def load_profile() -> None:
    """Make hypothesis try :data:`EXAMPLES` inputs, without a deadline for each."""
    settings.register_profile(
        "scale", max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("scale")
