# SPDX-License-Identifier: Apache-2.0
"""Secrets of jobs and signing keys of tasks, encrypted with Airflow's Fernet keys."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cryptography.fernet import InvalidToken
from sqlalchemy import Connection, Engine, Row, Select, and_, bindparam, select

from airflow_asyncaction.airflow_internals.server import secrets as airflow_secrets
from airflow_asyncaction.exceptions import SecretUnreadable
from airflow_asyncaction.store import rows
from airflow_asyncaction.store.models import action_table

_SECRET_BYTES = 32
_BATCH = 100  # each may be as large as the arguments of an action
_ENCRYPTED = ("secret", "task_key", "masks", "sealed_arguments")
_columns = action_table.c


def new_secret() -> str:
    """Return a new secret of 256 random bits, as ASCII text."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def encrypt(secret: str) -> str:
    """Encrypt a secret. Without a ``[core] fernet_key`` it is returned unchanged, as in Airflow."""
    return airflow_secrets.encrypt(secret)


def is_encrypting() -> bool:
    """Return whether a ``[core] fernet_key`` is configured."""
    return airflow_secrets.is_encrypting()


@lru_cache(maxsize=8192)  # a job reports many times, and its secret never changes
def decrypt(stored: str) -> str:
    """Decrypt a secret, with a cache.

    :raises SecretUnreadable: its key is not, or no longer, in ``[core] fernet_key``
    """
    return decrypt_uncached(stored)


def decrypt_uncached(stored: str) -> str:
    """Decrypt without the cache, for large values and those cached elsewhere.

    :raises SecretUnreadable: see :func:`decrypt`
    """
    try:
        return airflow_secrets.decrypt(stored)
    except InvalidToken:
        raise SecretUnreadable from None


@dataclass(frozen=True)
class Secrets:
    """The decrypted signing keys of the job and the task of an action."""

    job: str = field(repr=False)
    task: str = field(repr=False)


def secrets_of(row: Row[Any]) -> Secrets:
    """Return the secrets of an action.

    An action registered by an API server of an older release has no task key. The secret of its job is used
    instead, so that an upgrade does not interrupt tasks.

    :param row: row of ``async_action``
    :raises SecretUnreadable: see :func:`decrypt`
    """
    job = decrypt(row.secret)
    return Secrets(job, job if row.task_key is None else decrypt(row.task_key))


def rotate_all(engine: Engine) -> int:
    """Re-encrypt all secrets with the first configured key, and return the number of actions.

    ``airflow rotate-fernet-key`` does not know these columns. Jobs may report while this runs.

    :raises SecretUnreadable: some were encrypted with a key that is not configured; all others are rotated
    """
    done, unreadable, last_id = 0, 0, None
    while True:
        with engine.begin() as connection:
            batch = _read_batch(connection, last_id)
            rotated = [row for row in map(_rotate, batch) if row is not None]
            _write_batch(connection, rotated)
        if not batch:
            break
        done, unreadable = done + len(rotated), unreadable + len(batch) - len(rotated)
        last_id = batch[-1].id
    if unreadable:
        raise SecretUnreadable(
            f"The secrets of {unreadable} actions are encrypted with a key that is not in [core] fernet_key"
            f" and were not changed. The secrets of {done} actions are now encrypted with the first key."
        )
    return done


@dataclass(frozen=True)
class _Rotated:
    """The secrets of a row before and after rotation, by column."""

    action_id: str
    before: Mapping[str, str]
    after: Mapping[str, str]


def _read_batch(connection: Connection, after_id: str | None) -> Sequence[Row[Any]]:
    query: Select[Any] = select(_columns.id, *(_columns[name] for name in _ENCRYPTED))
    if after_id is not None:
        query = query.where(_columns.id > after_id)
    return connection.execute(query.order_by(_columns.id).limit(_BATCH)).all()


def _rotate(row: Row[Any]) -> _Rotated | None:
    """Return the secrets of a row encrypted with the first key; ``None`` if they are unreadable."""
    stored = {name: getattr(row, name) for name in _ENCRYPTED}
    before = {name: value for name, value in stored.items() if value is not None}
    try:  # with the current keys, not those of a cached read
        return _Rotated(
            row.id, before, {name: encrypt(decrypt_uncached(value)) for name, value in before.items()}
        )
    except SecretUnreadable:
        return None


def _write_batch(connection: Connection, rotated: Sequence[_Rotated]) -> None:
    """Update the secrets unless they have changed since they were read: new ones use the first key."""
    for name in _ENCRYPTED:
        changes = [
            {"action_id": row.action_id, "read": row.before[name], "rotated": row.after[name]}
            for row in rotated
            if name in row.before
        ]
        if changes:
            is_as_read = and_(_columns.id == bindparam("action_id"), _columns[name] == bindparam("read"))
            query = rows.changed().where(is_as_read).values({name: bindparam("rotated")})
            connection.execute(query, changes)
