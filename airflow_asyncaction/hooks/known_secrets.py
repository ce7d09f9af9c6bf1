# SPDX-License-Identifier: Apache-2.0
"""Known secrets: masks, in everything that leaves the worker, what Airflow masks in its task's log.

Airflow's masker knows the passwords and extras of connections and the sensitive variables that the task
read, and the values passed to ``mask_secret``. Its rules apply: short values and common words stay.
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
    """Return a masker of all secrets that Airflow knows now. It is cached until Airflow learns another."""
    global _current  # noqa: PLW0603 - Airflow's masker is one per process, too
    airflow_masker = _secrets_masker()
    replacer = airflow_masker.replacer  # replaced whenever it learns a secret
    if replacer is None:
        return NO_SECRETS
    known, masker = _current
    if known is not replacer:
        patterns = airflow_masker.patterns.copy()  # atomic: a thread may add to it
        masker = Masker(_ESCAPED.sub(r"\1", pattern) for pattern in patterns)
        _current = (replacer, masker)
    return masker


def never_share(*secrets: str) -> None:
    """Exclude secrets of actions from :func:`shared_secrets`: the server has them."""
    _own.update(secrets)


def shared_secrets() -> frozenset[str]:
    """Return the secrets that the server must mask. Those of Airflow's configuration are not among them."""
    known = current_masker().values - _own
    # Elsewhere, Airflow resets its masker before it runs a task.
    return known - _configured() if known and is_in_process() else known


@cache
def _configured() -> frozenset[str]:
    from airflow.configuration import conf  # that of the server, which is in this process, too

    with conf.suppress_future_warnings():
        found = {conf.get(section, key, fallback=None) for section, key in conf.sensitive_config_values}
    return frozenset(value for value in found if value)


def masked(text: str) -> str:
    """Return a text with its secrets masked."""
    return current_masker().text(text)
