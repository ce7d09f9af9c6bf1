# SPDX-License-Identifier: Apache-2.0
"""Ends of actions: noted in the transaction that makes them, told to the outside when it is committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from sqlalchemy import Connection

from airflow_asyncaction.protocol.actions import Action
from airflow_asyncaction.store import metrics, spans

_NOTED = "asyncaction_ended"


def noted(connection: Connection) -> Sequence[Action]:
    """Return the list that the actions which end in this transaction are going to be in."""
    # It belongs to the connection in the pool: each transaction begins one of its own.
    ended: list[Action] = []
    connection.info[_NOTED] = ended
    return ended


def note(connection: Connection, before: Action, after: Action) -> None:
    """Note an action if a change is its end: nothing is left to wait for. An action has one such change."""
    if after.is_done and not before.is_done:
        connection.info[_NOTED].append(after)


def tell(ended: Sequence[Action], transaction: Callable[[], AbstractContextManager[Connection]]) -> None:
    """Tell of actions that have ended. Nothing that goes wrong with it is raised.

    :param transaction: begins another one, to read what is told
    """
    for action in ended:
        metrics.count_end(action)
        spans.emit(action, transaction)
