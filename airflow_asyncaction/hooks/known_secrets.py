# SPDX-License-Identifier: Apache-2.0
"""Known secrets: the values that Airflow masks in the task log, masked in everything the worker sends.

Airflow's masker knows the passwords and extras of connections and the sensitive variables that the task
read, and the values passed to ``mask_secret``. Its rules apply: short values and common words are not masked.
"""

from __future__ import annotations

from airflow_asyncaction.airflow_internals.worker import secrets_masker
from airflow_asyncaction.airflow_internals.worker.task_process import is_in_process
from airflow_asyncaction.protocol.masking import NO_SECRETS, Masker

_current: tuple[object, Masker] = (None, NO_SECRETS)
_own: set[str] = set()


def current_masker() -> Masker:
    """Return a masker of all secrets that Airflow knows now. It is cached until Airflow learns another."""
    global _current  # noqa: PLW0603 - Airflow's masker is one per process, too
    version = secrets_masker.version()
    if version is None:
        return NO_SECRETS
    known, masker = _current
    if known is not version:
        masker = Masker(secrets_masker.known_secrets())
        _current = (version, masker)
    return masker


def never_share(*secrets: str) -> None:
    """Exclude secrets of actions from :func:`shared_secrets`: the server has them."""
    _own.update(secrets)


def shared_secrets() -> frozenset[str]:
    """Return the secrets that the server must mask. Those of Airflow's configuration are not among them."""
    known = current_masker().values - _own
    # Supervised task processes no longer know those of the configuration; dag.test() does.
    return known - secrets_masker.configured_secrets() if known and is_in_process() else known


def masked(text: str) -> str:
    """Return a text with its secrets masked."""
    return current_masker().text(text)
