# SPDX-License-Identifier: Apache-2.0
"""Proof that a request about an action is its job's, or its task's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import Row

from airflow_asyncaction.exceptions import ActionNotFound
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.masking import Masker
from airflow_asyncaction.store import masks
from airflow_asyncaction.store.secret import Secrets, secrets_of

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """What proves a request about an action."""

    secrets: Secrets
    accept_v1: bool
    masks: str | None = None

    @cached_property
    def masker(self) -> Masker:
        """What masks the secrets that the action's task knows."""
        return masks.masker(self.masks)

    def masked(self, body: bytes) -> bytes:
        """Return a body without these secrets: a job that reports its own secret does not give it away.

        What else its task knows is masked in what the body says (``masker``), but for its results.
        """
        return body.replace(self.secrets.job.encode(), b"***").replace(self.secrets.task.encode(), b"***")


Unseal = Callable[[Credentials | None], T]
"""Proves a request with an action's credentials (``None``: there is no such action) and returns what it says.

It is called where the row is read anyhow, so that a report takes one look at the database. It raises what the
caller wants raised; the transaction is then rolled back.
"""


def unsealed(row: Row[Any] | None, action_id: JobId, unseal: Unseal[T]) -> tuple[Row[Any], T]:
    """Return an action's row, and what ``unseal`` makes of a request about it.

    :raises ActionNotFound: there is no such action, and ``unseal`` does not mind
    """
    if row is None:
        unseal(None)
        raise _not_found(action_id)
    return row, unseal(credentials_of(row))


def proven(row: Row[Any] | None, action_id: JobId, prove: Unseal[object] | None) -> Row[Any]:
    """Return an action's row once a request about it is proven; ``None``: it needs no proof.

    :raises ActionNotFound: there is no such action, and ``prove`` does not mind
    """
    if prove is not None:
        return unsealed(row, action_id, prove)[0]
    if row is None:
        raise _not_found(action_id)
    return row


def _not_found(action_id: JobId) -> ActionNotFound:
    return ActionNotFound(f"There is no action {action_id}")


def credentials_of(row: Row[Any]) -> Credentials:
    """Return what proves requests about the action of a row.

    :raises SecretUnreadable: its secrets were encrypted with a key that is not configured
    """
    return Credentials(secrets_of(row), row.accept_v1, row.masks)
