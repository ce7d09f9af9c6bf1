# SPDX-License-Identifier: Apache-2.0
"""Secrets masker: the secrets that Airflow masks in the log of this process.

Uses: ``airflow.sdk._shared.secrets_masker._secrets_masker`` (its attributes ``replacer`` and ``patterns``),
``airflow.configuration.conf`` (``sensitive_config_values``, ``suppress_future_warnings``).

Checked with Airflow 3.3.2 (Task SDK 1.3.2).

The masker of a process knows passwords and extras of the connections and the sensitive variables that it has
read, and what was given to ``mask_secret``. It replaces ``replacer``, a compiled pattern, when it learns a
secret, and keeps the secrets in ``patterns``, escaped for regular expressions.
"""

from __future__ import annotations

import re
from functools import cache

from airflow.sdk._shared.secrets_masker import _secrets_masker

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def version() -> object | None:
    """Return an object that is replaced whenever the masker learns a secret; ``None``: it knows none."""
    return _secrets_masker().replacer


def known_secrets() -> frozenset[str]:
    """Return all secrets that the masker knows."""
    patterns = _secrets_masker().patterns.copy()  # in one step: a thread may add to it
    return frozenset(_ESCAPED.sub(r"\1", pattern) for pattern in patterns)


@cache
def configured_secrets() -> frozenset[str]:
    """Return the secrets of the server's configuration, for a task process that is the server, too."""
    from airflow.configuration import conf

    with conf.suppress_future_warnings():
        found = {conf.get(section, key, fallback=None) for section, key in conf.sensitive_config_values}
    return frozenset(value for value in found if value)
