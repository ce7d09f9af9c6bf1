# SPDX-License-Identifier: Apache-2.0
"""Permissions: authenticates users, and asks Airflow's auth manager what they may do.

A user's permissions for an action or operation are those for its Dag.
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
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.outages import store_outages
from airflow_asyncaction.store.teams import teams_of

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager, ResourceMethod
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from airflow.api_fastapi.auth.managers.models.batch_apis import IsAuthorizedDagRequest

T = TypeVar("T")

CSRF_HEADER = "X-Requested-With"
"""Required for requests that are authenticated by cookie: pages of other origins cannot send it."""

_COOKIE = "_token"
_BEARER = "bearer "
_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class User:
    """User whom Airflow has authenticated.

    Every permission check names its Dag. Without one, an auth manager may allow what is permitted for *any*
    Dag (FAB does), which says nothing about a particular Dag.

    :param known: user object of the auth manager
    :param actions: for the teams of Dags
    """

    known: BaseUser
    actions: Actions = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the user."""
        return self.known.get_name()

    def may(self, method: ResourceMethod, dag_id: str, entity: str) -> bool:
        """Return whether the user may access an entity (name of ``DagAccessEntity``) of a Dag.

        Airflow's own routes check permissions for a single Dag in the same way.

        :raises StoreUnavailable: the database is unavailable
        """
        requests = _build_requests(method, entity, teams_of(self.actions, [dag_id]))
        return _call_auth_manager(lambda: any(map(self._is_authorized, requests)))

    def check(self, method: ResourceMethod, dag_id: str, entity: str) -> None:
        """Check that the user may access an entity of a Dag.

        :raises UserRefused: they may not
        :raises StoreUnavailable: the database is unavailable
        """
        if not self.may(method, dag_id, entity):
            message = f"You need the permission {method} {entity} for the Dag {dag_id}"
            raise UserRefused(message, code="forbidden")

    def filter_permitted(self, method: ResourceMethod, entity: str, dag_ids: Collection[str]) -> set[str]:
        """Return the Dags that the user may read and whose entity they may access with this method.

        Airflow's own lists check permissions in the same way: for the set of readable Dags, in batches that a
        remote auth manager answers with one request.

        :raises StoreUnavailable: the database is unavailable
        """
        teams = teams_of(self.actions, dag_ids)
        return _call_auth_manager(lambda: self._filter_permitted(method, entity, teams))

    def _filter_permitted(
        self, method: ResourceMethod, entity: str, teams: Mapping[str, str | None]
    ) -> set[str]:
        of_team: dict[str | None, set[str]] = defaultdict(set)
        for dag_id, team in teams.items():
            of_team[team].add(dag_id)
        manager, readable = _auth_manager(), set[str]()
        for team, dag_ids in of_team.items():
            readable |= manager.filter_authorized_dag_ids(dag_ids=dag_ids, user=self.known, team_name=team)
        requests = _build_requests(method, entity, {dag_id: teams[dag_id] for dag_id in readable})
        if manager.batch_is_authorized_dag(requests, user=self.known):
            return readable
        return {dag_id for dag_id, one in zip(readable, requests, strict=True) if self._is_authorized(one)}

    def _is_authorized(self, request: IsAuthorizedDagRequest) -> bool:
        return _auth_manager().is_authorized_dag(**request, user=self.known)


def _build_requests(
    method: ResourceMethod, entity: str, teams: Mapping[str, str | None]
) -> list[IsAuthorizedDagRequest]:
    """Return an authorization request for each Dag, in order."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

    return [
        {
            "method": method,
            "access_entity": DagAccessEntity[entity],
            "details": DagDetails(id=dag_id, team_name=team),
        }
        for dag_id, team in teams.items()
    ]


def authenticate(request: Request, actions: Actions) -> User:
    """Return the user who sent a request. A bearer token takes precedence over the cookie, as in Airflow.

    :raises UserRefused: the credentials are missing or invalid, or a page of another origin may have sent it
    :raises StoreUnavailable: the database is unavailable
    """
    header = request.headers.get("Authorization", "")
    if header[: len(_BEARER)].lower() == _BEARER:
        return User(_authenticate_token(header[len(_BEARER) :].strip()), actions)
    known = _find_middleware_user(request)
    user = User(
        known if known is not None else _authenticate_token(request.cookies.get(_COOKIE, "")), actions
    )
    if request.method not in _READING and CSRF_HEADER not in request.headers:
        raise UserRefused(f"A request with a cookie needs the header the header {CSRF_HEADER}", code="csrf")
    return user


def _find_middleware_user(request: Request) -> BaseUser | None:
    """Return the user whom Airflow's own middleware authenticated by the cookie."""
    from airflow.api_fastapi.core_api.security import USER_INJECTED_BY_TRUSTED_MIDDLEWARE

    state: dict[str, Any] = (request.environ.get("asgi.scope") or {}).get("state") or {}
    if state.get("user_authenticated_via") is not USER_INJECTED_BY_TRUSTED_MIDDLEWARE:
        return None
    return state.get("user")


def _authenticate_token(token: str) -> BaseUser:
    if not token:
        raise UserRefused("Sign in to Airflow, or send a token from POST /auth/token", code="not_signed_in")
    try:
        return _call_auth_manager(lambda: asyncio.run(_auth_manager().get_user_from_token(token)))
    except InvalidTokenError:
        message = "The token is invalid or expired. Get a new one from POST /auth/token"
        raise UserRefused(message, code="not_signed_in") from None


def _auth_manager() -> BaseAuthManager[Any]:
    from airflow.api_fastapi.app import get_auth_manager

    try:
        return get_auth_manager()
    except RuntimeError:
        raise UserRefused("Only Airflow's API server can authenticate users", code="no_airflow") from None


def _call_auth_manager(function: Callable[[], T]) -> T:
    """Call the auth manager outside the Flask context: FAB's would mistake this app's context for its own.

    :raises StoreUnavailable: the database is unavailable
    """
    with store_outages():
        return contextvars.Context().run(function)
