# SPDX-License-Identifier: Apache-2.0
"""Auth manager: authenticates users, and authorizes their access to Dags.

Uses: ``airflow.api_fastapi.app.get_auth_manager``, ``airflow.api_fastapi.auth.managers``
(``BaseAuthManager``, ``BaseUser``, ``IsAuthorizedDagRequest``, ``DagAccessEntity``, ``DagDetails``),
``airflow.api_fastapi.core_api.security`` (``USER_INJECTED_BY_TRUSTED_MIDDLEWARE``).

Checked with Airflow 3.3.2, its simple auth manager, and the FAB provider 3.10.2.

``BaseAuthManager`` is a public interface for implementing auth managers. No public API returns the
configured one, or the user whom its middleware authenticated.

Every access request names its Dag. Without one, an auth manager may allow a request that is permitted for
*any* Dag, as FAB does. Call these functions outside any Flask app context: FAB would mistake it for its own.
``airflow.api_fastapi`` is only imported when needed, since it loads the whole API server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager, ResourceMethod
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from airflow.api_fastapi.auth.managers.models.batch_apis import IsAuthorizedDagRequest

    AirflowUser = BaseUser
    Method = ResourceMethod
    AccessRequest = IsAuthorizedDagRequest


COOKIE = "_token"
"""Name of the cookie that holds a user's token, Airflow's ``COOKIE_NAME_JWT_TOKEN``."""


class NotAnApiServer(Exception):
    """No auth manager is configured in this process: it is not Airflow's API server."""


def authenticate_token(token: str) -> AirflowUser:
    """Authenticate a user by token. Call it from a worker thread, since it runs its own event loop.

    :raises jwt.InvalidTokenError: the token is invalid or has expired
    :raises NotAnApiServer: no API server runs in this process
    """
    import asyncio

    return asyncio.run(_auth_manager().get_user_from_token(token))


def find_middleware_user(scope: Mapping[str, Any]) -> AirflowUser | None:
    """Return the user whom Airflow's middleware has authenticated by cookie, if any.

    :param scope: ASGI scope of the request
    """
    from airflow.api_fastapi.core_api.security import USER_INJECTED_BY_TRUSTED_MIDDLEWARE

    state: dict[str, Any] = scope.get("state") or {}
    if state.get("user_authenticated_via") is not USER_INJECTED_BY_TRUSTED_MIDDLEWARE:
        return None
    return state.get("user")


def access_requests(method: Method, entity: str, teams: Mapping[str, str | None]) -> list[AccessRequest]:
    """Return one access request per Dag, in order, for an entity and a method.

    :param entity: name of a ``DagAccessEntity``
    :param teams: team of each Dag, by ``dag_id``
    """
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

    return [
        {
            "method": method,
            "access_entity": DagAccessEntity[entity],
            "details": DagDetails(id=dag_id, team_name=team),
        }
        for dag_id, team in teams.items()
    ]


def is_authorized(user: AirflowUser, access_request: AccessRequest) -> bool:
    """Return whether the user may make an access request.

    :raises NotAnApiServer: no API server runs in this process
    """
    return bool(_auth_manager().is_authorized_dag(**access_request, user=user))


def are_all_authorized(user: AirflowUser, requests: Sequence[AccessRequest]) -> bool:
    """Return whether the user may make all access requests. A remote auth manager needs one call for this.

    :raises NotAnApiServer: no API server runs in this process
    """
    return bool(_auth_manager().batch_is_authorized_dag(requests, user=user))


def readable_dag_ids(user: AirflowUser, dag_ids: set[str], team: str | None) -> set[str]:
    """Return the Dags of a team that a user may read.

    :raises NotAnApiServer: no API server runs in this process
    """
    return _auth_manager().filter_authorized_dag_ids(dag_ids=dag_ids, user=user, team_name=team)


def _auth_manager() -> BaseAuthManager[Any]:
    from airflow.api_fastapi.app import get_auth_manager

    try:
        return get_auth_manager()
    except RuntimeError:
        raise NotAnApiServer from None
