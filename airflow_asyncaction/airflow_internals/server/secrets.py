# SPDX-License-Identifier: Apache-2.0
"""Secrets: encryption with Airflow's Fernet keys, and detection of sensitive field names.

Uses: ``airflow.models.crypto.get_fernet``, ``airflow._shared.secrets_masker.should_hide_value_for_key``.

Checked with Airflow 3.3.2.

With several keys in ``[core] fernet_key``, the first one encrypts, and all decrypt. Without a key, Airflow
stores plain text, and so does :func:`encrypt`.
"""

from __future__ import annotations

from airflow._shared.secrets_masker import should_hide_value_for_key
from airflow.models.crypto import get_fernet


def encrypt(text: str) -> str:
    """Encrypt a text; the result is ASCII. Without a ``[core] fernet_key`` it is returned unchanged."""
    return get_fernet().encrypt(text.encode()).decode()


def decrypt(stored: str) -> str:
    """Decrypt the result of :func:`encrypt`.

    :raises cryptography.fernet.InvalidToken: it was encrypted with a key that is not configured
    """
    return get_fernet().decrypt(stored.encode()).decode()


def is_encrypting() -> bool:
    """Return whether a ``[core] fernet_key`` is configured."""
    return bool(get_fernet().is_encrypted)


def is_secret_name(name: str) -> bool:
    """Return whether Airflow masks the values of fields with this name, such as ``password``."""
    return bool(should_hide_value_for_key(name))
