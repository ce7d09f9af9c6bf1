# SPDX-License-Identifier: Apache-2.0
"""Filters of lists: find the newest actions that match, in a few index ranges that are read backwards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    String,
    TableValuedAlias,
    and_,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.models import action_table

_MAX_RANGES = 200
"""Maximum number of index ranges read for a page, except by :func:`_newest_of_dags`. If a page needs more,
all actions are scanned once."""

_RECENT = 1000
"""Number of actions among which those of several Dags are searched first."""

_FIRST_ID = JobId(str(UUID(int=0)))
_AFTER_LAST_ID = JobId(str(UUID(int=2**128 - 1)))  # no UUIDv7 is as large

_columns = action_table.c


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Filters for lists of actions. An action must match all filters that are set.

    :param since: created at this time or later
    :param until: created before this time
    """

    type: str | None = None
    states: Collection[State] = ()
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    iteration: int | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class _Search:
    """What a page shows.

    :param dag_ids: Dags to search, ``None`` for all
    :param states: values of the states to search
    :param columns: conditions on columns that do not belong to the index of Dags and states
    :param lowest: smallest id
    :param below: all ids are smaller
    :param count: number of actions
    """

    dag_ids: Sequence[str] | None
    states: Sequence[str]
    columns: Sequence[ColumnElement[bool]]
    lowest: JobId
    below: JobId
    count: int

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """All conditions but those on Dags and states."""
        found = list(self.columns)
        if self.lowest != _FIRST_ID:
            found.append(_columns.id >= self.lowest)
        if self.below != _AFTER_LAST_ID:
            found.append(_columns.id < self.below)
        return found


def find_newest(
    connection: Connection,
    wanted: Filter,
    *,
    dag_ids: Collection[str] | None,
    before: JobId | None,
    count: int,
) -> list[ColumnElement[bool]]:
    """Return conditions that the newest ``count`` matching actions match, and no newer ones.

    :param dag_ids: restrict to these Dags; ``None`` for all
    :param before: only actions created before this one
    """
    search = _to_search(wanted, dag_ids, before, count)
    if search.dag_ids is not None and _can_skip_ranges(connection, search):
        if len(search.states) == len(State):
            ids = connection.scalars(_recent_of_dags(search, search.dag_ids)).all()
            if len(ids) == count:
                return [_columns.id.in_(ids)]
        query = _newest_of_dags(search, search.dag_ids)
    else:
        ranges = _ranges(search, is_indexed=wanted.type is not None or bool(wanted.states))
        if len(ranges) == 1:
            return [*search.conditions, *ranges[0]]
        if not ranges:
            return [_columns.id.in_(())]
        query = _newest_of_ranges(search, ranges)
    return [_columns.id.in_(connection.scalars(query).all())]


def _to_search(wanted: Filter, dag_ids: Collection[str] | None, before: JobId | None, count: int) -> _Search:
    dags = None if dag_ids is None else sorted(dag_ids)
    if wanted.dag_id is not None:
        dags = [wanted.dag_id] if dag_ids is None or wanted.dag_id in dag_ids else []
    filters: Sequence[tuple[Any, Any]] = (
        (_columns.type, wanted.type),
        (_columns.run_id, wanted.run_id),
        (_columns.task_id, wanted.task_id),
        (_columns.map_index, wanted.map_index),
        (_columns.iteration, wanted.iteration),
    )
    return _Search(
        dag_ids=dags,
        states=[state.value for state in sorted(set(wanted.states or State))],
        columns=[column == value for column, value in filters if value is not None],
        lowest=_FIRST_ID if wanted.since is None else _smallest_id(wanted.since),
        below=min(
            before or _AFTER_LAST_ID,
            _AFTER_LAST_ID if wanted.until is None else _smallest_id(wanted.until),
        ),
        count=count,
    )


def _can_skip_ranges(connection: Connection, search: _Search) -> bool:
    """Return whether :func:`_newest_of_dags` finds the page.

    It does not for other filters. A single Dag is planned with its own statistics.
    """
    is_several = search.dag_ids is not None and len(search.dag_ids) > 1
    return connection.dialect.name == "postgresql" and is_several and not search.columns


def _recent_of_dags(search: _Search, dag_ids: Sequence[str]) -> Select[tuple[str]]:
    """Return the query for the ids of Dags among the most recent actions.

    They fill the page if many actions belong to these Dags, at a fraction of the cost of
    :func:`_newest_of_dags`.
    """
    recent = (
        select(_columns.id, _columns.dag_id)
        .where(*search.conditions)
        .order_by(_columns.id.desc())
        .limit(_RECENT)
        .subquery("recent")
    )
    ids = select(recent.c.id).where(recent.c.dag_id.in_(dag_ids))
    return ids.order_by(recent.c.id.desc()).limit(search.count)


def _newest_of_dags(search: _Search, dag_ids: Sequence[str]) -> Select[tuple[str]]:
    """Return the query for the newest ids of Dags, for PostgreSQL: one plan for any number of Dags.

    It first probes each Dag and state for its newest id. The page can only contain actions of the ``count``
    ranges whose newest ids are the largest, so it reads more of these alone.
    """
    dags, states = _unnest(dag_ids, "dags"), _unnest(search.states, "states")
    dag_id, state = dags.c.value, states.c.value
    newest, is_newest = _read_range(search, dag_id, state, count=1)
    filled = (
        select(dag_id.label("dag_id"), state.label("state"))
        .select_from(dags.join(states, true()).join(newest, is_newest))
        .order_by(newest.c.id.desc())
        .limit(search.count)
        .subquery("filled")
    )
    found, is_found = _read_range(search, filled.c.dag_id, filled.c.state, count=search.count)
    ids = select(found.c.id).select_from(filled.join(found, is_found))
    return ids.order_by(found.c.id.desc()).limit(search.count)


def _read_range(
    search: _Search, dag_id: ColumnElement[str], state: ColumnElement[str], *, count: int
) -> tuple[FromClause, ColumnElement[bool]]:
    """Return the last ``count`` index entries up to the end of a Dag and state, and whether one is in range.

    No index but that of Dags, states and ids has their order. With plain conditions, PostgreSQL may expect to
    find any Dag and state soon by reading the primary key backwards. It then reads the whole table for those
    that do not exist.
    """
    place = (_columns.dag_id, _columns.state, _columns.id)
    below = tuple_(dag_id, state, literal(search.below, _columns.id.type))
    entries = (
        select(*place)
        .where(tuple_(*place) < below)
        .order_by(*(column.desc() for column in place))
        .limit(count)
        .lateral()
    )
    found = entries.c
    lowest = literal(search.lowest, _columns.id.type)
    return entries, and_(found.dag_id == dag_id, found.state == state, found.id >= lowest)


def _unnest(values: Sequence[str], name: str) -> TableValuedAlias:
    return func.unnest(literal(list(values), ARRAY(String))).table_valued("value").render_derived(name=name)


def _newest_of_ranges(search: _Search, ranges: Sequence[Sequence[ColumnElement[bool]]]) -> Select[tuple[str]]:
    """Return the query for the newest ids of ranges: the newest of each range, merged."""
    parts = [
        select(_columns.id)
        .where(*search.conditions, *range_)
        .order_by(_columns.id.desc())
        .limit(search.count)
        .subquery()
        for range_ in ranges
    ]
    id_ = literal_column("id", _columns.id.type)
    merged = union_all(*(select(id_).select_from(part) for part in parts)).subquery()
    return select(id_).select_from(merged).order_by(id_.desc()).limit(search.count)


def _ranges(search: _Search, *, is_indexed: bool) -> list[list[ColumnElement[bool]]]:
    """Return alternative conditions, each an index range that can be read backwards.

    :param is_indexed: whether an index of states without Dags is useful
    """
    in_dags: list[ColumnElement[bool]] = []
    if search.dag_ids is not None:
        if len(search.dag_ids) * len(search.states) <= _MAX_RANGES:
            return [
                [_columns.dag_id == dag, _columns.state == state]
                for dag in search.dag_ids
                for state in search.states
            ]
        in_dags = [_columns.dag_id.in_(search.dag_ids)]
    if is_indexed:
        return [[_columns.state == state, *in_dags] for state in search.states]
    return [in_dags]


def _smallest_id(time: datetime) -> JobId:
    """Return the smallest UUIDv7 of a time."""
    ms = min(max(0, int(time.timestamp() * 1000)), 2**48 - 1)
    return JobId(str(UUID(int=ms << 80)))
