# SPDX-License-Identifier: Apache-2.0
"""Known secrets: masks in all that leaves the worker what Airflow masks in the log of its task.

Airflow's masker knows the passwords and extras of connections and the sensitive variables that the task has
read, and what was given to ``mask_secret``. Its rules apply: short values and common words are not masked.
"""

from __future__ import annotations

import re
from functools import cache

from airflow.sdk._shared.secrets_masker import _secrets_masker

from airflow_asyncaction.hooks.in_process import is_in_process
from airflow_asyncaction.protocol.masking import NO_SECRETS, Masker

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_current: tuple[object, Masker] = (None, NO_SECRETS)
_own: set[str] = set()


def current_masker() -> Masker:
    """Return what masks all that Airflow masks now. Cheap where it has come to know nothing new."""
    global _current  # noqa: PLW0603 - Airflow's masker is one per process, too
    airflow_masker = _secrets_masker()
    replacer = airflow_masker.replacer  # another one whenever it gets to know something
    if replacer is None:
        return NO_SECRETS
    known, masker = _current
    if known is not replacer:
        patterns = airflow_masker.patterns.copy()  # in one step: a thread may add to it
        masker = Masker(_ESCAPED.sub(r"\1", pattern) for pattern in patterns)
        _current = (replacer, masker)
    return masker


def keep_back(*secrets: str) -> None:
    """Never share these: the secrets of actions, which the server has."""
    _own.update(secrets)


def shared_secrets() -> frozenset[str]:
    """Return those that the server is to mask: not what only Airflow itself knows, by its configuration."""
    known = current_masker().values - _own
    # Elsewhere, Airflow has forgotten those of its configuration before it runs a task.
    return known - _configured() if known and is_in_process() else known


@cache
def _configured() -> frozenset[str]:
    from airflow.configuration import conf  # the server's, which is in this process, too

    with conf.suppress_future_warnings():
        found = {conf.get(section, key, fallback=None) for section, key in conf.sensitive_config_values}
    return frozenset(value for value in found if value)


def masked(text: str) -> str:
    """Return a text as it may leave the worker."""
    return current_masker().text(text)
