# SPDX-License-Identifier: Apache-2.0
"""Who a user is, a person or a service, and what they may do: Airflow's auth manager says so."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Request
from jwt import InvalidTokenError

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.store.operations import are_teams, is_nobodys, team_of

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager, ResourceMethod
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

T = TypeVar("T")

CSRF_HEADER = "X-Requested-With"
"""Pages of other origins cannot send it along: a request that only the cookie proves must have it."""

_COOKIE = "_token"
_BEARER = "bearer "
_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class User:
    """Somebody whom Airflow knows.

    How it works: what they may do with an action, or an operation, is what they may do with its Dag.

    :param known: as the auth manager knows them
    """

    known: BaseUser

    @property
    def name(self) -> str:
        """Of the user."""
        return self.known.get_name()

    def may(self, method: ResourceMethod, dag_id: str, entity: str) -> bool:
        """Tell whether they may do that to an entity (name of ``DagAccessEntity``) of a Dag."""
        return not is_nobodys(dag_id) and self._may(method, dag_id, entity)

    def _may(self, method: ResourceMethod, dag_id: str, entity: str) -> bool:
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

        details = DagDetails(id=dag_id, team_name=team_of(dag_id))
        return _outside_flask(
            lambda: _auth_manager().is_authorized_dag(
                method=method, access_entity=DagAccessEntity[entity], details=details, user=self.known
            )
        )

    def check(self, method: ResourceMethod, dag_id: str, entity: str) -> None:
        """Make sure that they may.

        :raises UserRefused: they may not
        """
        if not self.may(method, dag_id, entity):
            said = f"You may not {method} {entity} of the Dag {dag_id}: ask for the permission in Airflow"
            raise UserRefused(said, code="forbidden")

    def dag_ids(self, method: ResourceMethod, entity: str) -> set[str] | None:
        """Return the Dags to whose entity they may do that; ``None``: all."""
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity

        manager = _auth_manager()
        may_all = _outside_flask(
            lambda: manager.is_authorized_dag(
                method=method, access_entity=DagAccessEntity[entity], user=self.known
            )
        )
        if may_all and not are_teams():
            return None
        found = _outside_flask(lambda: manager.get_authorized_dag_ids(user=self.known))
        return {dag_id for dag_id in found if self._may(method, dag_id, entity)}


def user_of(request: Request) -> User:
    """Return who sends a request: a bearer token goes before the cookie, as in Airflow.

    :raises UserRefused: nobody whom Airflow knows; or another origin may have made a browser send it
    """
    header = request.headers.get("Authorization", "")
    if header[: len(_BEARER)].lower() == _BEARER:
        return User(_user_of_token(header[len(_BEARER) :].strip()))
    if request.method not in _READING and CSRF_HEADER not in request.headers:
        raise UserRefused(f"A request with a cookie needs the header {CSRF_HEADER}", code="csrf")
    user = _user_of_middleware(request)
    return User(user if user is not None else _user_of_token(request.cookies.get(_COOKIE, "")))


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
        return _outside_flask(lambda: asyncio.run(_auth_manager().get_user_from_token(token)))
    except InvalidTokenError:
        said = "The token is not valid, or not any more: get one by POST /auth/token"
        raise UserRefused(said, code="not_signed_in") from None


def _auth_manager() -> BaseAuthManager[Any]:
    from airflow.api_fastapi.app import get_auth_manager

    try:
        return get_auth_manager()
    except RuntimeError:
        raise UserRefused("Users are served by Airflow's API server alone", code="no_airflow") from None


def _outside_flask(function: Callable[[], T]) -> T:
    """Call an auth manager: FAB's takes any Flask app whose context it finds for its own."""
    return contextvars.Context().run(function)
