# SPDX-License-Identifier: Apache-2.0
"""Revisions: no update of an action bypasses ``rows.changed``, which increments its revision."""

from __future__ import annotations

from pathlib import Path

from airflow_asyncaction.store import rows

STORE = Path(rows.__file__).parent


def test_only_one_module_updates_actions_without_a_helper() -> None:
    found = {path.name for path in STORE.glob("*.py") if "update(action_table)" in path.read_text()}
    assert found == {"rows.py"}


def test_an_update_increments_the_revision() -> None:
    statement = str(rows.changed().values(verb="STOP"))
    assert "revision=(async_action.revision + " in statement
    assert "verb=" in statement
