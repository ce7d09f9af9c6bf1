# SPDX-License-Identifier: Apache-2.0
"""Users, people and services: who sends a request, and what Airflow's auth manager lets them do.

What a user may do with an action, or an operation, is what they may do with its Dag.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Request
from jwt import InvalidTokenError

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.store.database import Database, database_outages
from airflow_asyncaction.store.teams import teams_of

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager, ResourceMethod
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from airflow.api_fastapi.auth.managers.models.batch_apis import IsAuthorizedDagRequest

T = TypeVar("T")

CSRF_HEADER = "X-Requested-With"
"""Pages of other origins cannot send it along: a request that only the cookie proves must have it."""

_COOKIE = "_token"
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

    known: BaseUser
    database: Database = field(repr=False)

    @property
    def name(self) -> str:
        """Of the user."""
        return self.known.get_name()

    def may(self, method: ResourceMethod, dag_id: str, entity: str) -> bool:
        """Tell whether they may do that to an entity (name of ``DagAccessEntity``) of a Dag.

        It is the question that Airflow's own routes ask about a single Dag.

        :raises StoreUnavailable: the database does not answer
        """
        questions = _questions(method, entity, teams_of(self.database, [dag_id]))
        return _ask(lambda: any(map(self._is_authorized, questions)))

    def check(self, method: ResourceMethod, dag_id: str, entity: str) -> None:
        """Make sure that they may.

        :raises UserRefused: they may not
        :raises StoreUnavailable: the database does not answer
        """
        if not self.may(method, dag_id, entity):
            said = f"You may not {method} {entity} of the Dag {dag_id}: ask for the permission in Airflow"
            raise UserRefused(said, code="forbidden")

    def permitted(self, method: ResourceMethod, entity: str, dag_ids: Collection[str]) -> set[str]:
        """Return the Dags that the user may read and whose entity they may access with this method.

        Airflow's own lists check permissions in the same way: for the set of readable Dags, in batches that a
        remote auth manager answers with one request.

        :raises StoreUnavailable: the database does not answer
        """
        teams = teams_of(self.database, dag_ids)
        return _ask(lambda: self._permitted(method, entity, teams))

    def _permitted(self, method: ResourceMethod, entity: str, teams: Mapping[str, str | None]) -> set[str]:
        of_team: dict[str | None, set[str]] = defaultdict(set)
        for dag_id, team in teams.items():
            of_team[team].add(dag_id)
        manager, readable = _auth_manager(), set[str]()
        for team, dag_ids in of_team.items():
            readable |= manager.filter_authorized_dag_ids(dag_ids=dag_ids, user=self.known, team_name=team)
        questions = _questions(method, entity, {dag_id: teams[dag_id] for dag_id in readable})
        if manager.batch_is_authorized_dag(questions, user=self.known):
            return readable
        return {dag_id for dag_id, one in zip(readable, questions, strict=True) if self._is_authorized(one)}

    def _is_authorized(self, question: IsAuthorizedDagRequest) -> bool:
        return _auth_manager().is_authorized_dag(**question, user=self.known)


def _questions(
    method: ResourceMethod, entity: str, teams: Mapping[str, str | None]
) -> list[IsAuthorizedDagRequest]:
    """Return the question about each Dag, in order."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

    return [
        {
            "method": method,
            "access_entity": DagAccessEntity[entity],
            "details": DagDetails(id=dag_id, team_name=team),
        }
        for dag_id, team in teams.items()
    ]


def authenticate(request: Request, database: Database) -> User:
    """Return who sends a request: a bearer token goes before the cookie, as in Airflow.

    :raises UserRefused: nobody whom Airflow knows; or another origin may have made a browser send it
    :raises StoreUnavailable: the database does not answer
    """
    header = request.headers.get("Authorization", "")
    if header[: len(_BEARER)].lower() == _BEARER:
        return User(_user_of_token(header[len(_BEARER) :].strip()), database)
    known = _user_of_middleware(request)
    user = User(known if known is not None else _user_of_token(request.cookies.get(_COOKIE, "")), database)
    if request.method not in _READING and CSRF_HEADER not in request.headers:
        raise UserRefused(f"A request with a cookie needs the header {CSRF_HEADER}", code="csrf")
    return user


def _user_of_middleware(request: Request) -> BaseUser | None:
    """Return whom Airflow's own middleware has found by the cookie."""
    from airflow.api_fastapi.core_api.security import USER_INJECTED_BY_TRUSTED_MIDDLEWARE

    state: dict[str, Any] = (request.environ.get("asgi.scope") or {}).get("state") or {}
    if state.get("user_authenticated_via") is not USER_INJECTED_BY_TRUSTED_MIDDLEWARE:
        return None
    return state.get("user")


def _user_of_token(token: str) -> BaseUser:
    if not token:
        raise UserRefused("Sign in to Airflow, or send a token of POST /auth/token", code="not_signed_in")
    try:
        return _ask(lambda: asyncio.run(_auth_manager().get_user_from_token(token)))
    except InvalidTokenError:
        said = "The token is invalid or has expired: get one by POST /auth/token"
        raise UserRefused(said, code="not_signed_in") from None


def _auth_manager() -> BaseAuthManager[Any]:
    from airflow.api_fastapi.app import get_auth_manager

    try:
        return get_auth_manager()
    except RuntimeError:
        raise UserRefused("Users are served by Airflow's API server alone", code="no_airflow") from None


def _ask(function: Callable[[], T]) -> T:
    """Call an auth manager outside our Flask context: FAB's takes any app context it finds for its own.

    :raises StoreUnavailable: its database does not answer
    """
    with database_outages():
        return contextvars.Context().run(function)
