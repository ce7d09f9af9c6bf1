# SPDX-License-Identifier: Apache-2.0
"""Auth manager: authenticates users, and tells what they may do with a Dag.

Uses: ``airflow.api_fastapi.app.get_auth_manager``, ``airflow.api_fastapi.auth.managers``
(``BaseAuthManager``, ``BaseUser``, ``IsAuthorizedDagRequest``, ``DagAccessEntity``, ``DagDetails``),
``airflow.api_fastapi.core_api.security`` (``USER_INJECTED_BY_TRUSTED_MIDDLEWARE``).

Checked with Airflow 3.3.2, its simple auth manager, and the FAB provider 3.10.2.

``BaseAuthManager`` is public for those who write an auth manager. How to get the configured one, and what its
middleware leaves in a request, is not.

Every question names its Dag. Without one, an auth manager may allow what is permitted for *any* Dag, as FAB
does. Call these functions outside any Flask app context: FAB's auth manager takes it for its own. Nothing of
``airflow.api_fastapi`` is imported before it is needed: it loads the whole API server.
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
    Question = IsAuthorizedDagRequest


COOKIE = "_token"
"""Name of the cookie that holds a user's token, Airflow's ``COOKIE_NAME_JWT_TOKEN``."""


class NotAnApiServer(Exception):
    """No auth manager is configured in this process: it is not Airflow's API server."""


def user_of_token(token: str) -> AirflowUser:
    """Return the user whose token this is. Runs an event loop of its own: call it from a thread.

    :raises jwt.InvalidTokenError: the token is invalid or has expired
    :raises NotAnApiServer: no API server runs in this process
    """
    import asyncio

    return asyncio.run(_auth_manager().get_user_from_token(token))


def user_of_middleware(scope: Mapping[str, Any]) -> AirflowUser | None:
    """Return the user whom Airflow's own middleware has authenticated by the cookie, if any.

    :param scope: ASGI scope of the request
    """
    from airflow.api_fastapi.core_api.security import USER_INJECTED_BY_TRUSTED_MIDDLEWARE

    state: dict[str, Any] = scope.get("state") or {}
    if state.get("user_authenticated_via") is not USER_INJECTED_BY_TRUSTED_MIDDLEWARE:
        return None
    return state.get("user")


def questions(method: Method, entity: str, teams: Mapping[str, str | None]) -> list[Question]:
    """Return one question per Dag, in order: whether a user may access the entity with this method.

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


def is_authorized(user: AirflowUser, question: Question) -> bool:
    """Return whether the answer is yes.

    :raises NotAnApiServer: no API server runs in this process
    """
    return bool(_auth_manager().is_authorized_dag(**question, user=user))


def are_all_authorized(user: AirflowUser, asked: Sequence[Question]) -> bool:
    """Return whether all answers are yes. A remote auth manager answers with one request.

    :raises NotAnApiServer: no API server runs in this process
    """
    return bool(_auth_manager().batch_is_authorized_dag(asked, user=user))


def readable_dag_ids(user: AirflowUser, dag_ids: set[str], team: str | None) -> set[str]:
    """Return those of a team's Dags that a user may read.

    :raises NotAnApiServer: no API server runs in this process
    """
    return _auth_manager().filter_authorized_dag_ids(dag_ids=dag_ids, user=user, team_name=team)


def _auth_manager() -> BaseAuthManager[Any]:
    from airflow.api_fastapi.app import get_auth_manager

    try:
        return get_auth_manager()
    except RuntimeError:
        raise NotAnApiServer from None
