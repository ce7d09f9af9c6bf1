# SPDX-License-Identifier: Apache-2.0
"""Permissions: authenticates users, and asks Airflow's auth manager what they may do.

A user's permissions for an action or operation are those for its Dag.
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
    from airflow_asyncaction.airflow_internals.server.auth_manager import AccessRequest, AirflowUser, Method

T = TypeVar("T")

CSRF_HEADER = "X-Requested-With"
"""Required for requests that are authenticated by cookie: pages of other origins cannot send it."""

_BEARER = "bearer "
_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class User:
    """User whom Airflow has authenticated.

    Every permission check names its Dag. Without one, an auth manager may allow what is permitted for *any*
    Dag (FAB does), which says nothing about a particular Dag.

    :param known: user object of the auth manager
    :param database: for the teams of Dags
    """

    known: AirflowUser
    database: Database = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the user."""
        return self.known.get_name()

    def may(self, method: Method, dag_id: str, entity: str) -> bool:
        """Return whether the user may access an entity (name of ``DagAccessEntity``) of a Dag.

        Airflow's own routes check permissions for a single Dag in the same way.

        :raises StoreUnavailable: the database is unavailable
        """
        requests = auth_manager.access_requests(method, entity, teams_of(self.database, [dag_id]))
        return _call_auth_manager(lambda: any(map(self._is_authorized, requests)))

    def check(self, method: Method, dag_id: str, entity: str) -> None:
        """Check that the user may access an entity of a Dag.

        :raises UserRefused: they may not
        :raises StoreUnavailable: the database is unavailable
        """
        if not self.may(method, dag_id, entity):
            message = f"You need the permission {method} {entity} for the Dag {dag_id}"
            raise UserRefused(message, code="forbidden")

    def filter_permitted(self, method: Method, entity: str, dag_ids: Collection[str]) -> set[str]:
        """Return the Dags that the user may read and whose entity they may access with this method.

        Airflow's own lists check permissions in the same way: for the set of readable Dags, in batches that a
        remote auth manager answers with one request.

        :raises StoreUnavailable: the database is unavailable
        """
        teams = teams_of(self.database, dag_ids)
        return _call_auth_manager(lambda: self._filter_permitted(method, entity, teams))

    def _filter_permitted(self, method: Method, entity: str, teams: Mapping[str, str | None]) -> set[str]:
        of_team: dict[str | None, set[str]] = defaultdict(set)
        for dag_id, team in teams.items():
            of_team[team].add(dag_id)
        readable = set[str]()
        for team, dag_ids in of_team.items():
            readable |= auth_manager.readable_dag_ids(self.known, dag_ids, team)
        requests = auth_manager.access_requests(
            method, entity, {dag_id: teams[dag_id] for dag_id in readable}
        )
        if auth_manager.are_all_authorized(self.known, requests):
            return readable
        return {dag_id for dag_id, one in zip(readable, requests, strict=True) if self._is_authorized(one)}

    def _is_authorized(self, access_request: AccessRequest) -> bool:
        return auth_manager.is_authorized(self.known, access_request)


def authenticate(request: Request, database: Database) -> User:
    """Return the user who sent a request. A bearer token takes precedence over the cookie, as in Airflow.

    :raises UserRefused: the credentials are missing or invalid, or a page of another origin may have sent it
    :raises StoreUnavailable: the database is unavailable
    """
    header = request.headers.get("Authorization", "")
    if header[: len(_BEARER)].lower() == _BEARER:
        return User(_authenticate_token(header[len(_BEARER) :].strip()), database)
    known = auth_manager.find_middleware_user(request.environ.get("asgi.scope") or {})
    if known is None:
        known = _authenticate_token(request.cookies.get(auth_manager.COOKIE, ""))
    if request.method not in _READING and CSRF_HEADER not in request.headers:
        raise UserRefused(f"A request with a cookie needs the header {CSRF_HEADER}", code="csrf")
    return User(known, database)


def _authenticate_token(token: str) -> AirflowUser:
    if not token:
        raise UserRefused("Sign in to Airflow, or send a token from POST /auth/token", code="not_signed_in")
    try:
        return _call_auth_manager(lambda: auth_manager.authenticate_token(token))
    except InvalidTokenError:
        message = "The token is invalid or expired. Get a new one from POST /auth/token"
        raise UserRefused(message, code="not_signed_in") from None


def _call_auth_manager(function: Callable[[], T]) -> T:
    """Call the auth manager outside the Flask context: FAB's would mistake this app's context for its own.

    :raises StoreUnavailable: the database is unavailable
    :raises UserRefused: no API server runs in this process
    """
    with database_outages():
        try:
            return contextvars.Context().run(function)
        except auth_manager.NotAnApiServer:
            message = "Only Airflow's API server can authenticate users"
            raise UserRefused(message, code="no_airflow") from None
