# SPDX-License-Identifier: Apache-2.0
"""Import contract ``public_imports``: finds every import statement."""

from __future__ import annotations

from pathlib import Path

from dev.import_walls import imported_modules

SOURCE = '''
import os, airflow.models.dag
from airflow.sdk import DAG
from airflow import settings
if TYPE_CHECKING:
    from airflow.models import taskinstance

def late():
    """Not this one: from airflow.models import xcom."""
    from airflow.utils.state import State
'''


def test_imports_are_found_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    assert sorted(imported_modules(path), key=lambda found: found[1]) == [
        ("os", 2),
        ("airflow.models.dag", 2),
        ("airflow.sdk", 3),
        ("airflow", 4),
        ("airflow.models", 6),
        ("airflow.utils.state", 10),
    ]
