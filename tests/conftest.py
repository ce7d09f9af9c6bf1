# SPDX-License-Identifier: Apache-2.0
"""Airflow in the process of the tests: a home of its own, and nothing of whoever runs them."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import tempfile

import pytest

FOREIGN = ("AIRFLOW", "_AIRFLOW", "JOB_")

# At import: Airflow reads its environment when it is imported itself, by whichever test comes first.
for _name in [name for name in os.environ if name.startswith(FOREIGN)]:
    del os.environ[_name]
_home = tempfile.mkdtemp(prefix="asyncaction-home-")
os.environ.update(
    AIRFLOW_HOME=_home,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__FERNET_KEY=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    AIRFLOW__ASYNCACTION__GC_FREEZE="False",
    AIRFLOW__ASYNCACTION__MAX_REPORTS_PER_SECOND="1000",
)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the home."""
    del config
    shutil.rmtree(_home, ignore_errors=True)
