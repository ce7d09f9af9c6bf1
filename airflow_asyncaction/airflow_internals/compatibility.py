# SPDX-License-Identifier: Apache-2.0
"""Compatibility: checks that the installed Airflow has all internals that this package uses.

Checked with Airflow 3.3.2 and 3.4.0b2, the newest release that the tests run with.

Minor releases of Airflow move or remove internals without notice. If one is missing, this package's app in
the API server refuses all requests with the message that :func:`describe` returns. Airflow itself, and Dags
without our operators, keep running.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version

SUPPORTED = ("3.3", "3.4")
"""Minor releases of Airflow that the tests were run with."""

_TASK_INSTANCE = (
    "id",
    "dag_id",
    "run_id",
    "task_id",
    "state",
    "try_number",
    "max_tries",
    "rendered_map_index",
)

USED: Mapping[str, Sequence[str]] = {
    "airflow._shared.secrets_masker": ["should_hide_value_for_key"],
    "airflow.api.common.mark_tasks": ["set_dag_run_state_to_failed"],
    "airflow.api.common.trigger_dag": ["trigger_dag"],
    "airflow.api_fastapi.app": ["get_auth_manager"],
    "airflow.api_fastapi.auth.managers.base_auth_manager": [
        "BaseAuthManager.batch_is_authorized_dag",
        "BaseAuthManager.filter_authorized_dag_ids",
        "BaseAuthManager.get_user_from_token",
        "BaseAuthManager.is_authorized_dag",
        "ResourceMethod",
    ],
    "airflow.api_fastapi.auth.managers.models.base_user": ["BaseUser"],
    "airflow.api_fastapi.auth.managers.models.batch_apis": ["IsAuthorizedDagRequest"],
    "airflow.api_fastapi.auth.managers.models.resource_details": ["DagAccessEntity", "DagDetails"],
    "airflow.api_fastapi.core_api.security": ["USER_INJECTED_BY_TRUSTED_MIDDLEWARE"],
    "airflow.cli.simple_table": ["AirflowConsole"],
    "airflow.migrations.db_types": ["TIMESTAMP"],
    "airflow.models.crypto": ["get_fernet"],
    "airflow.models.dag": ["DagModel.__table__.c.bundle_name", "DagModel.__table__.c.is_stale", "DagTag"],
    "airflow.models.dagbag": ["CachedDBDagBag", "DBDagBag.get_dag_for_run"],
    "airflow.models.dagrun": ["DagRun.__table__.c.state", "DagRun.find"],
    "airflow.models.log": ["Log.__table__.c.owner_display_name"],
    "airflow.models.pool": ["Pool.create_or_update_pool"],
    "airflow.models.serialized_dag": [
        "SerializedDagModel.get_dag",
        "SerializedDagModel.__table__.c.dag_hash",
    ],
    "airflow.models.taskinstance": [
        *(f"TaskInstance.__table__.c.{column}" for column in _TASK_INSTANCE),
        "TaskInstance.set_state",
        "TaskInstance.trigger_id",
    ],
    "airflow.models.team": ["dag_bundle_team_association_table"],
    "airflow.models.trigger": ["Trigger.classpath", "Trigger.submit_event", "Trigger.submit_failure"],
    "airflow.models.xcom": ["XComModel"],
    "airflow.observability.metrics.stats_utils": ["get_stats_factory"],
    "airflow.observability.stats": ["gauge", "incr", "initialize", "normalize_name_for_stats", "timing"],
    "airflow.sdk._shared.secrets_masker": ["_secrets_masker"],
    "airflow.sdk.bases.operator": ["OPERATOR_DEFAULTS", "TRIGGER_FAIL_REPR", "TriggerFailureReason"],
    "airflow.sdk.definitions.mappedoperator": ["OperatorPartial"],
    "airflow.sdk.definitions.param": ["ParamsDict"],
    "airflow.sdk.execution_time.supervisor": ["InProcessSupervisorComms"],
    "airflow.sdk.execution_time.task_runner": [],
    "airflow.sdk.listener": ["get_listener_manager"],
    "airflow.sdk.serde": ["serialize"],
    "airflow.serialization.definitions.dag": ["SerializedDAG.set_task_instance_state"],
    "airflow.serialization.definitions.notset": ["is_arg_set"],
    "airflow.serialization.definitions.taskgroup": ["SerializedMappedTaskGroup"],
    "airflow.settings": ["get_engine"],
    "airflow.state": ["TaskScope", "get_state_backend"],
    "airflow.triggers.base": ["TaskSuccessEvent"],
    "airflow.utils.cli": ["action_cli", "suppress_logs_and_warning"],
    "airflow.utils.db_cleanup": ["_BASE_TABLE_ALIAS", "_TableConfig", "config_dict"],
    "airflow.utils.db_manager": ["BaseDBManager"],
    "airflow.utils.platform": ["getuser"],
    "airflow.utils.session": ["create_session"],
    "airflow.utils.sqlalchemy": ["UtcDateTime"],
    "airflow.utils.state": ["DagRunState", "State.finished", "TaskInstanceState"],
    "airflow.utils.types": ["DagRunTriggeredByType"],
}
"""Modules that this package imports, and the attributes of each that it uses."""

USED_WITHOUT_REGIONS: Mapping[str, Sequence[str]] = {
    "airflow.models.taskinstance": ["TaskInstance.__table__.c.map_index"],
    "airflow.models.taskinstancehistory": ["TaskInstanceHistory.__table__.c.task_instance_id"],
    "airflow.models.xcom": ["XComModel.set"],
}
"""The same for Airflow 3.3."""

USED_WITH_REGIONS: Mapping[str, Sequence[str]] = {
    "airflow.models.dynamic_region": ["DynamicRegion.__table__.c.parent_region_index", "SENTINEL_REGION_ID"],
    "airflow.models.task_coordinates": ["mapped_region_expression", "public_map_index_expression"],
    "airflow.models.taskinstance": [
        "TaskInstance.__table__.c.region_id",
        "TaskInstance.__table__.c.region_index",
        "TaskInstance.__table__.c.working_set",
    ],
    "airflow.models.xcom": ["XComModel.set_for_attempt"],
    "airflow.serialization.definitions.taskgroup": ["SerializedLoopTaskGroup"],
}
"""The same for Airflow 3.4, which has regions (:mod:`task_regions`)."""


def find_missing() -> Sequence[str]:
    """Return what the installed Airflow lacks, such as ``airflow.models.trigger.Trigger.submit_event``."""
    has_regions = _has("airflow.models.taskinstance", "TaskInstance.__table__.c.region_id")
    missing = [*_missing(USED), *_missing(USED_WITH_REGIONS if has_regions else USED_WITHOUT_REGIONS)]
    return list(dict.fromkeys(missing))


def describe(missing: Sequence[str]) -> str:
    """Return the error message for users and logs: what is missing, and what to do."""
    ours, installed = version("airflow-asyncaction"), version("apache-airflow-core")
    return (
        f"airflow-asyncaction {ours} supports Airflow {' and '.join(SUPPORTED)}, but the installed Airflow"
        f" {installed} lacks {', '.join(missing)}. Install a release of airflow-asyncaction for this Airflow,"
        f" or use Airflow {SUPPORTED[-1]}."
    )


@contextmanager
def explain_import_errors() -> Iterator[None]:
    """Turn an ImportError in the block into one that says what is missing, and what to do.

    :raises ImportError: with the message of :func:`describe`
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{describe([f'parts of {error.name}'])} Details: {error.msg}") from error


def _missing(used: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for module, attributes in used.items():
        if not _has(module, ""):
            yield module
            continue
        for attribute in attributes:
            if not _has(module, attribute):
                yield f"{module}.{attribute}"


def _has(module: str, attribute: str) -> bool:
    try:
        owner: object = import_module(module)
        for name in attribute.split(".") if attribute else ():
            owner = getattr(owner, name)
    except (ImportError, AttributeError):
        return False
    return True
