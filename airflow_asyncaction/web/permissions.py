# SPDX-License-Identifier: Apache-2.0
"""Users, people and services: who sends a request, and what Airflow's auth manager lets them do.

What a user may do with an action, or an operation, is what they may do with its Dag.
"""

from __future__ import annotations

import contextvars
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from flask import Request
from jwt import InvalidTokenError

from airflow_asyncaction.airflow_internals.server import auth_manager
from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.store.database import Database, database_outages
from airflow_asyncaction.store.teams import teams_of

if TYPE_CHECKING:
    from airflow_asyncaction.airflow_internals.server.auth_manager import AirflowUser, Method, Question

T = TypeVar("T")

CSRF_HEADER = "X-Requested-With"
"""Pages of other origins cannot send it along: a request that only the cookie proves must have it."""

_BEARER = "bearer "
_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class User:
    """A user whom Airflow has authenticated.

    How it works: every permission check names its Dag. Without one, an auth manager may allow what is
    permitted for *any* Dag (FAB does), which says nothing about a particular Dag.

    :param known: the auth manager's user object
    :param database: knows the Dags' teams
    """

    known: AirflowUser
    database: Database = field(repr=False)

    @property
    def name(self) -> str:
        """Of the user."""
        return self.known.get_name()

    def may(self, method: Method, dag_id: str, entity: str) -> bool:
        """Tell whether they may do that to an entity (name of ``DagAccessEntity``) of a Dag.

        It is the question that Airflow's own routes ask about a single Dag.

        :raises StoreUnavailable: the database does not answer
        """
        questions = auth_manager.questions(method, entity, teams_of(self.database, [dag_id]))
        return _ask(lambda: any(map(self._is_authorized, questions)))

    def check(self, method: Method, dag_id: str, entity: str) -> None:
        """Make sure that they may.

        :raises UserRefused: they may not
        :raises StoreUnavailable: the database does not answer
        """
        if not self.may(method, dag_id, entity):
            said = f"You may not {method} {entity} of the Dag {dag_id}: ask for the permission in Airflow"
            raise UserRefused(said, code="forbidden")

    def permitted(self, method: Method, entity: str, dag_ids: Collection[str]) -> set[str]:
        """Return the Dags that the user may read and whose entity they may access with this method.

        Airflow's own lists check permissions in the same way: for the set of readable Dags, in batches that a
        remote auth manager answers with one request.

        :raises StoreUnavailable: the database does not answer
        """
        teams = teams_of(self.database, dag_ids)
        return _ask(lambda: self._permitted(method, entity, teams))

    def _permitted(self, method: Method, entity: str, teams: Mapping[str, str | None]) -> set[str]:
        of_team: dict[str | None, set[str]] = defaultdict(set)
        for dag_id, team in teams.items():
            of_team[team].add(dag_id)
        readable = set[str]()
        for team, dag_ids in of_team.items():
            readable |= auth_manager.readable_dag_ids(self.known, dag_ids, team)
        questions = auth_manager.questions(method, entity, {dag_id: teams[dag_id] for dag_id in readable})
        if auth_manager.are_all_authorized(self.known, questions):
            return readable
        return {dag_id for dag_id, one in zip(readable, questions, strict=True) if self._is_authorized(one)}

    def _is_authorized(self, question: Question) -> bool:
        return auth_manager.is_authorized(self.known, question)


def authenticate(request: Request, database: Database) -> User:
    """Return who sends a request: a bearer token goes before the cookie, as in Airflow.

    :raises UserRefused: nobody whom Airflow knows; or another origin may have made a browser send it
    :raises StoreUnavailable: the database does not answer
    """
    header = request.headers.get("Authorization", "")
    if header[: len(_BEARER)].lower() == _BEARER:
        return User(_user_of_token(header[len(_BEARER) :].strip()), database)
    known = auth_manager.user_of_middleware(request.environ.get("asgi.scope") or {})
    if known is None:
        known = _user_of_token(request.cookies.get(auth_manager.COOKIE, ""))
    if request.method not in _READING and CSRF_HEADER not in request.headers:
        raise UserRefused(f"A request with a cookie needs the header {CSRF_HEADER}", code="csrf")
    return User(known, database)


def _user_of_token(token: str) -> AirflowUser:
    if not token:
        raise UserRefused("Sign in to Airflow, or send a token of POST /auth/token", code="not_signed_in")
    try:
        return _ask(lambda: auth_manager.user_of_token(token))
    except InvalidTokenError:
        said = "The token is invalid or has expired: get one by POST /auth/token"
        raise UserRefused(said, code="not_signed_in") from None


def _ask(function: Callable[[], T]) -> T:
    """Call an auth manager outside our Flask context: FAB's takes any app context it finds for its own.

    :raises StoreUnavailable: its database does not answer
    :raises UserRefused: no API server runs in this process
    """
    with database_outages():
        try:
            return contextvars.Context().run(function)
        except auth_manager.NotAnApiServer:
            said = "Users are served by Airflow's API server alone"
            raise UserRefused(said, code="no_airflow") from None
