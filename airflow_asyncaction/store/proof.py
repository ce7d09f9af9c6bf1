# SPDX-License-Identifier: Apache-2.0
"""Proof: verifies that a request about an action comes from its job or its task."""

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
    """Credentials that authenticate requests about an action."""

    secrets: Secrets
    accept_v1: bool
    masks: str | None = None

    @cached_property
    def masker(self) -> Masker:
        """Masker for the secrets of the action's task."""
        return masks.masker(self.masks)

    def masked(self, body: bytes) -> bytes:
        """Return a body with the secrets of job and task masked, so that a job cannot reveal its own secret.

        ``masker`` masks the other secrets of the task in the parsed fields, except for the results.
        """
        return body.replace(self.secrets.job.encode(), b"***").replace(self.secrets.task.encode(), b"***")


Unseal = Callable[[Credentials | None], T]
"""Authenticates a request with the credentials of its action, and returns its parsed content.

The credentials are ``None`` if the action does not exist. It is called in the transaction that reads the row,
so that a report needs one query. Its errors are passed on, and roll back the transaction.
"""


def unsealed(row: Row[Any] | None, action_id: JobId, unseal: Unseal[T]) -> tuple[Row[Any], T]:
    """Return the row of an action, and the result of ``unseal`` for a request about it.

    :raises ActionNotFound: the action does not exist, unless ``unseal`` raises another error
    """
    if row is None:
        unseal(None)
        raise _not_found(action_id)
    return row, unseal(credentials_of(row))


def proven(row: Row[Any] | None, action_id: JobId, prove: Unseal[object] | None) -> Row[Any]:
    """Return the row of an action after authenticating a request about it.

    :param prove: authenticates the request; ``None`` if it needs no proof
    :raises ActionNotFound: the action does not exist, unless ``prove`` raises another error
    """
    if prove is not None:
        return unsealed(row, action_id, prove)[0]
    if row is None:
        raise _not_found(action_id)
    return row


def _not_found(action_id: JobId) -> ActionNotFound:
    return ActionNotFound(f"There is no action {action_id}.")


def credentials_of(row: Row[Any]) -> Credentials:
    """Return the credentials of the action of a row.

    :raises SecretUnreadable: its secrets were encrypted with a key that is not configured
    """
    return Credentials(secrets_of(row), row.accept_v1, row.masks)
