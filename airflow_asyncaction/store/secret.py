# SPDX-License-Identifier: Apache-2.0
"""The secrets of jobs, and the keys of their tasks, encrypted with Airflow's own Fernet keys."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from airflow.models.crypto import get_fernet
from cryptography.fernet import InvalidToken
from sqlalchemy import Connection, Engine, Row, bindparam, select, update

from airflow_asyncaction.exceptions import SecretUnreadable
from airflow_asyncaction.store.models import action_table

_SECRET_BYTES = 32
_BATCH = 500


def new_secret() -> str:
    """Return a new secret of 256 random bits, as ASCII."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def encrypt(secret: str) -> str:
    """Return what is stored. Without a ``[core] fernet_key``, as Airflow does: the secret as it is."""
    return get_fernet().encrypt(secret.encode()).decode()


@lru_cache(maxsize=8192)  # a job reports many times, and the secrets of an action never change
def decrypt(stored: str) -> str:
    """Return the secret.

    :raises SecretUnreadable: it was encrypted with a key that is not configured here (any more)
    """
    try:
        return get_fernet().decrypt(stored.encode()).decode()
    except InvalidToken:
        raise SecretUnreadable from None


@dataclass(frozen=True)
class Secrets:
    """What the job and the task of an action sign with, in clear."""

    job: str = field(repr=False)
    task: str = field(repr=False)


def secrets_of(row: Row[Any]) -> Secrets:
    """Return the secrets of an action.

    An action that a worker of an older release has registered has no task key. Its job's secret stands for
    it, so that an upgrade interrupts no task.

    :param row: of ``async_action``
    :raises SecretUnreadable: as :func:`decrypt`
    """
    job = decrypt(row.secret)
    return Secrets(job, job if row.task_key is None else decrypt(row.task_key))


def rotate_all(engine: Engine) -> int:
    """Re-encrypt all secrets with the first of the configured keys, and return of how many actions.

    ``airflow rotate-fernet-key`` cannot know these columns. It can be run while jobs report.
    """
    done, last_id = 0, None
    while True:
        with engine.begin() as connection:
            rows = _rotate_batch(connection, last_id)
        if not rows:
            return done
        done, last_id = done + len(rows), rows[-1]


def _rotate_batch(connection: Connection, after_id: str | None) -> list[str]:
    """Rotate one batch; return the ids in it."""
    columns = action_table.c
    query = select(columns.id, columns.secret, columns.task_key).order_by(columns.id).limit(_BATCH)
    if after_id is not None:
        query = query.where(columns.id > after_id)
    rows = connection.execute(query).all()
    if rows:
        connection.execute(
            update(action_table).where(columns.id == bindparam("row_id")),
            [
                {"row_id": row.id, "secret": _rotated(row.secret), "task_key": _rotated(row.task_key)}
                for row in rows
            ],
        )
    return [row.id for row in rows]


def _rotated(stored: str | None) -> str | None:
    return None if stored is None else encrypt(decrypt(stored))
