# SPDX-License-Identifier: Apache-2.0
"""Secrets masker: the secrets that Airflow masks in the log of this process.

Uses: ``airflow.sdk._shared.secrets_masker._secrets_masker`` (its attributes ``replacer`` and ``patterns``),
``airflow.configuration.conf`` (``sensitive_config_values``, ``suppress_future_warnings``).

Checked with Airflow 3.3.2 (Task SDK 1.3.2).

The masker of a process knows the passwords and extras of connections and the sensitive variables that the
process has read, and the arguments of ``mask_secret``. When it learns a secret, it replaces ``replacer``, a
compiled pattern. It keeps the secrets in ``patterns``, escaped for regular expressions.
"""

from __future__ import annotations

import re
from functools import cache

from airflow_asyncaction.airflow_internals import compatibility

with compatibility.explain_import_errors():
    from airflow.sdk._shared.secrets_masker import _secrets_masker

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def version() -> object | None:
    """Return an object that changes whenever the masker learns a secret; ``None`` if it knows none."""
    return _secrets_masker().replacer


def known_secrets() -> frozenset[str]:
    """Return all secrets that the masker knows."""
    patterns = _secrets_masker().patterns.copy()  # atomic: another thread may add to it
    return frozenset(_ESCAPED.sub(r"\1", pattern) for pattern in patterns)


@cache
def configured_secrets() -> frozenset[str]:
    """Return the secrets of Airflow's configuration, for a task process that is also the API server."""
    from airflow.configuration import conf

    with conf.suppress_future_warnings():
        found = {conf.get(section, key, fallback=None) for section, key in conf.sensitive_config_values}
    return frozenset(value for value in found if value)
