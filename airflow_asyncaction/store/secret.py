# SPDX-License-Identifier: Apache-2.0
"""Jobs' secrets, encrypted with Airflow's own Fernet keys."""

from __future__ import annotations

import secrets
from functools import lru_cache

from airflow.models.crypto import get_fernet
from cryptography.fernet import InvalidToken
from sqlalchemy import Connection, Engine, bindparam, select, update

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


@lru_cache(maxsize=4096)  # a job reports many times, and its secret never changes
def decrypt(stored: str) -> str:
    """Return the secret.

    :raises SecretUnreadable: it was encrypted with a key that is not configured here (any more)
    """
    try:
        return get_fernet().decrypt(stored.encode()).decode()
    except InvalidToken:
        raise SecretUnreadable from None


def rotate_all(engine: Engine) -> int:
    """Re-encrypt every secret with the first of the configured keys, and return how many there were.

    ``airflow rotate-fernet-key`` cannot know this column. It can be run while jobs report.
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
    query = select(action_table.c.id, action_table.c.secret).order_by(action_table.c.id).limit(_BATCH)
    if after_id is not None:
        query = query.where(action_table.c.id > after_id)
    rows = connection.execute(query).all()
    if rows:
        connection.execute(
            update(action_table).where(action_table.c.id == bindparam("row_id")),
            [{"row_id": row.id, "secret": encrypt(decrypt(row.secret))} for row in rows],
        )
    return [row.id for row in rows]
