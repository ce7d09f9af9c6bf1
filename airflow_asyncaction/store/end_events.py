# SPDX-License-Identifier: Apache-2.0
"""End events: collect the actions that end in a transaction, and emit metrics and spans after its commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from sqlalchemy import Connection

from airflow_asyncaction.protocol.actions import Action
from airflow_asyncaction.store import metrics, spans

_KEY = "asyncaction_ended"


def begin(connection: Connection) -> Sequence[Action]:
    """Return the list to which :func:`collect` adds the actions that end in this transaction."""
    # `info` belongs to the pooled connection: each transaction starts with a new list.
    ended: list[Action] = []
    connection.info[_KEY] = ended
    return ended


def collect(connection: Connection, before: Action, after: Action) -> None:
    """Collect an action if this change makes its end final, which happens once per action."""
    if after.is_done and not before.is_done:
        connection.info[_KEY].append(after)


def emit(ended: Sequence[Action], transaction: Callable[[], AbstractContextManager[Connection]]) -> None:
    """Emit metrics and spans of ended actions. Errors are logged, not raised.

    :param transaction: begins another transaction, to read the reports for the span
    """
    for action in ended:
        metrics.count_end(action)
        spans.emit(action, transaction)
