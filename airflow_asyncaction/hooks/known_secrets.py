# SPDX-License-Identifier: Apache-2.0
"""Known secrets: masks in all that leaves the worker what Airflow masks in the log of its task.

Airflow's masker knows the passwords and extras of connections and the sensitive variables that the task has
read, and what was given to ``mask_secret``. Its rules apply: short values and common words are not masked.
"""

from __future__ import annotations

from airflow_asyncaction.airflow_internals.worker import secrets_masker
from airflow_asyncaction.airflow_internals.worker.task_process import is_in_process
from airflow_asyncaction.protocol.masking import NO_SECRETS, Masker

_current: tuple[object, Masker] = (None, NO_SECRETS)
_own: set[str] = set()


def current_masker() -> Masker:
    """Return what masks all that Airflow masks now. Cheap where it has come to know nothing new."""
    global _current  # noqa: PLW0603 - Airflow's masker is one per process, too
    version = secrets_masker.version()
    if version is None:
        return NO_SECRETS
    known, masker = _current
    if known is not version:
        masker = Masker(secrets_masker.known_secrets())
        _current = (version, masker)
    return masker


def keep_back(*secrets: str) -> None:
    """Never share these: the secrets of actions, which the server has."""
    _own.update(secrets)


def shared_secrets() -> frozenset[str]:
    """Return those that the server is to mask: not what only Airflow itself knows, by its configuration."""
    known = current_masker().values - _own
    # Elsewhere, Airflow has forgotten those of its configuration before it runs a task.
    return known - secrets_masker.configured_secrets() if known and is_in_process() else known


def masked(text: str) -> str:
    """Return a text as it may leave the worker."""
    return current_masker().text(text)
