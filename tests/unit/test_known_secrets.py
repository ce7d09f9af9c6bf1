# SPDX-License-Identifier: Apache-2.0
"""Known secrets: this package masks what Airflow's masker masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.configuration import conf
from airflow.sdk import Connection
from airflow.sdk._shared.secrets_masker import redact, reset_secrets_masker

from airflow_asyncaction.hooks import known_secrets
from airflow_asyncaction.hooks.known_secrets import current_masker, masked, never_share, shared_secrets

Mask = Callable[..., None]
STRANGE = "a.b*c\\d\ne'f\"{g}|h $"


def test_what_airflow_masks_is_masked(mask: Mask) -> None:
    mask(STRANGE)
    mask({"password": "in a mapping", "user": "an open name"})
    text = f"{STRANGE}, in a mapping, an open name"
    assert masked(text) == redact(text) == "***, ***, an open name"
    assert STRANGE in shared_secrets()


@pytest.mark.usefixtures("mask")
def test_extras_of_a_connection_are_masked() -> None:
    connection = Connection(
        conn_id="x", conn_type="http", extra='{"token": "of the extra", "region": "north"}'
    )
    assert connection.extra_dejson["region"] == "north"
    assert masked("of the extra in the north") == "*** in the north"


@pytest.mark.parametrize("value", ["", "abcd", "airflow", "Airflow"])
def test_what_airflow_does_not_mask_is_not_masked(mask: Mask, value: str) -> None:
    mask(value)
    assert masked(f"<{value}>") == redact(f"<{value}>") == f"<{value}>"


def test_what_airflow_forgets_is_forgotten(mask: Mask) -> None:
    mask("a password")
    assert masked("a password") == "***"
    reset_secrets_masker()
    assert masked("a password") == "a password"
    mask("another one")
    assert masked("a password, another one") == "a password, ***"


def test_the_masker_is_made_once_for_what_is_known(mask: Mask) -> None:
    mask("a password")
    masker = current_masker()
    mask("a password")
    assert current_masker() is masker
    mask("another one")
    assert current_masker() is not masker


def test_secrets_of_airflows_configuration_are_masked_but_not_shared(
    mask: Mask, monkeypatch: pytest.MonkeyPatch
) -> None:
    key: Any = conf.get("core", "fernet_key")
    mask([key, "a password"])
    monkeypatch.setattr(known_secrets, "is_in_process", lambda: True)  # as in dag.test()
    assert masked(key) == "***"
    assert "a password" in shared_secrets()
    assert key not in shared_secrets()


def test_secrets_of_actions_are_masked_but_not_shared(mask: Mask) -> None:
    mask(["the secret of a job", "a password"])
    never_share("the secret of a job")
    assert masked("the secret of a job") == "***"
    assert "a password" in shared_secrets()
    assert "the secret of a job" not in shared_secrets()
