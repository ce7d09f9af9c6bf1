# SPDX-License-Identifier: Apache-2.0
"""Masks: the secrets to mask in the reports of an action, and the action's unmasked arguments.

Both are encrypted with Airflow's Fernet keys, like the secrets of jobs. Only the job gets its arguments
unmasked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sqlalchemy import Row

from airflow_asyncaction.airflow_internals.server.secrets import is_secret_name
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import Action
from airflow_asyncaction.protocol.masking import MASK, NO_SECRETS, Masker, bounded, found_in
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store import secret


def masker_of(row: Row[Any]) -> Masker:
    """Return the masker for the secrets of an action's task.

    :param row: row of ``async_action``
    :raises SecretUnreadable: see :func:`secret.decrypt`
    """
    return masker(row.masks)


def masker(stored: str | None) -> Masker:
    """Return the masker for stored secrets (:func:`encrypted`); ``None`` masks nothing.

    :raises SecretUnreadable: see :func:`secret.decrypt`
    """
    return NO_SECRETS if stored is None else _masker(secret.decrypt_uncached(stored))


@lru_cache(maxsize=128)  # mapped tasks share secrets, whose ciphertexts differ
def _masker(secrets: str) -> Masker:
    return Masker(json.loads(secrets))


def encrypted(secrets: Iterable[str], arguments: str, *, known: Masker = NO_SECRETS) -> str | None:
    """Merge secrets with those already known, and return them in their stored form.

    Without a ``[core] fernet_key``, only secrets that occur in the arguments are stored, since those are
    in the database in plain text anyway.
    """
    kept = bounded(known.values.union(secrets))
    if not secret.is_encrypting():
        kept = found_in(arguments, kept)
    return secret.encrypt(json.dumps(kept)) if kept else None


def added(row: Row[Any], secrets: Iterable[str]) -> str | None:
    """Merge secrets with those of an action, and return them in their stored form.

    :raises SecretUnreadable: see :func:`secret.decrypt`
    """
    sealed = row.sealed_arguments
    arguments = row.arguments if sealed is None else secret.decrypt_uncached(sealed)
    return encrypted(secrets, arguments, known=masker_of(row))


def argument_columns(arguments: JsonText, masker: Masker = NO_SECRETS) -> dict[str, Any]:
    """Return the columns of arguments: masked for users and, if that differs, encrypted for the job.

    Values of keys such as ``password`` are masked as well, as in Airflow's rendered fields.
    """
    unmasked = strict_json.loads(arguments)
    shown = masker.json(_mask_by_name(unmasked))
    if shown == unmasked:
        return {"arguments": arguments, "sealed_arguments": None}
    return {"arguments": strict_json.dumps(shown), "sealed_arguments": secret.encrypt(arguments)}


def _mask_by_name(value: Any, *, is_secret: bool = False) -> Any:
    if isinstance(value, str):
        return MASK if is_secret else value
    if isinstance(value, list):
        return [_mask_by_name(each, is_secret=is_secret) for each in value]
    if isinstance(value, dict):
        return {
            name: _mask_by_name(each, is_secret=is_secret or is_secret_name(name))
            for name, each in value.items()
        }
    return value


def for_job(row: Row[Any], action: Action) -> Action:
    """Return an action with unmasked arguments.

    :raises SecretUnreadable: see :func:`secret.decrypt`
    """
    if row.sealed_arguments is None:
        return action
    return replace(action, arguments=JsonText(secret.decrypt_uncached(row.sealed_arguments)))
