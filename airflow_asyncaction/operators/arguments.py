# SPDX-License-Identifier: Apache-2.0
"""Arguments of operators: those of the action, the Params that they come from, and those derived for Airflow.

A mapped task is serialized with the arguments of ``partial()`` or of its decorator. Its ``__init__`` runs
only on workers. Therefore constructors, ``partial()`` and decorators all derive Airflow's own arguments that
follow from an action's, such as outlets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import Asset, BaseOperator, Param

from airflow_asyncaction.airflow_internals.worker.operators import ParamsDict
from airflow_asyncaction.operators.files import check_assets
from airflow_asyncaction.protocol.operations import TAG, Declaration
from airflow_asyncaction.protocol.reports import MAX_NAME_CHARS, is_name
from airflow_asyncaction.protocol.strict_json import JsonText, loads

Arguments = Mapping[str, Any] | Sequence[Any]
"""Named arguments, or positional arguments of a service's method."""


class ArgumentsOperator(BaseOperator):
    """Operator with an action's arguments and, for a webda job, the service and method that they are for.

    BaseActionOperator describes the parameters.
    """

    template_fields: Sequence[str] = ("arguments", "service_name", "method")
    template_fields_renderers: ClassVar[dict[str, str]] = {"arguments": "json"}

    def __init__(
        self,
        *,
        arguments: Arguments | None = None,
        service_name: str | None = None,
        method: str | None = None,
        orchestrator: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (service_name is None) != (method is None):
            missing = "method" if method is None else "service_name"
            raise ValueError(f"{missing} is missing: pass service_name and method together")
        if orchestrator is not None:
            _check_name("orchestrator", orchestrator)
        if service_name is not None and isinstance(arguments, Mapping):
            check_positional(arguments)
        self.arguments = arguments
        self.service_name = service_name
        self.method = method
        self.orchestrator = orchestrator

    def encode_arguments(self) -> JsonText:
        """Return the rendered arguments as JSON.

        :raises ValueError: they are not JSON-serializable, or not a list though a method takes them
        """
        arguments: Any = self.arguments
        if self.service_name is not None:
            _check_name("service_name", self.service_name)
            _check_name("method", self.method)
            arguments = [] if arguments is None else arguments
            check_positional(arguments)
        try:
            text = json.dumps({} if arguments is None else arguments, allow_nan=False)
            loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"arguments must be JSON-serializable: {error}") from None
        return JsonText(text)


def _check_name(option: str, value: Any) -> None:
    if not is_name(value):
        raise ValueError(f"{option} is {value!r}: it must be 1 to {MAX_NAME_CHARS} printable characters")


def check_positional(arguments: Any) -> None:
    """Check that the arguments of a service's method are a list.

    :raises ValueError: they are not
    """
    if not isinstance(arguments, list | tuple):
        raise ValueError(
            f"arguments is of type {type(arguments).__name__}: with service_name it must be a list, the"
            " method's positional arguments"
        )


def derive_arguments(
    type_: str | None, output_assets: Mapping[str, Asset] | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that follow from a type and output assets.

    :param arguments: Airflow's arguments as the Dag author passed them
    :raises ValueError: a value is not an asset, or a property name is invalid
    """
    derived: dict[str, Any] = {}
    arguments = {**(arguments.get("default_args") or {}), **arguments}
    assets = check_assets(output_assets)
    if assets:
        derived["outlets"] = _all_outlets(arguments.get("outlets"), assets)
    if type_ is not None and arguments.get("doc_json") is None:
        # The API server reads the type from here when the Dag is launched as an operation.
        derived["doc_json"] = Declaration(type=type_).to_doc()
    return derived


def find_argument(name: str, arguments: Mapping[str, Any], default_args: Mapping[str, Any] | None) -> Any:
    """Return an argument of a task that is about to be mapped, or its value in the nearest ``default_args``.

    :param arguments: those of the task, including its Dag and task group
    :param default_args: of the task itself
    """
    groups = (getattr(arguments.get(owner), "default_args", None) for owner in ("task_group", "dag"))
    sources = (source for source in (arguments, default_args, *groups) if source)
    return next((source[name] for source in sources if name in source), None)


def _all_outlets(outlets: Any, assets: Mapping[str, Asset]) -> list[Any]:
    declared = outlets if isinstance(outlets, list | tuple) else [outlets] if outlets else []
    return [*declared, *(asset for asset in assets.values() if asset not in declared)]


def use_linear_params(task: BaseOperator) -> None:
    """Make Airflow validate the Params of an operation Dag in linear time.

    Params with a ``$schema`` of their own stay as they are. So do the Params of Dags whose only tasks of this
    package are mapped: these get tighter limits when the API server's
    routes launch them.

    :raises ValueError: the schema of a Param cannot be used
    """
    if not task.has_dag() or TAG not in task.dag.tags:
        return
    if not task.dag.has_task(task.task_id) or task.dag.get_task(task.task_id) is not task:
        return  # a mapped task, unmapped in a worker
    for params in (task.dag.params, task.params):  # a task copies its Dag's, and Airflow validates both
        if not isinstance(params, ParamsDict):
            continue
        for name in params:
            params[name] = _linear(params.get_param(name), f"Param {name!r} of the Dag {task.dag.dag_id!r}")


def _linear(param: Param, what: str) -> Param:
    if "$schema" in param.schema:
        return param
    # Only operation Dags need the validator.
    from airflow_asyncaction.json_schema import BadSchema, compile_schema
    from airflow_asyncaction.json_schema.dialect import with_dialect

    try:
        compile_schema(param.schema)
    except BadSchema as error:
        raise ValueError(f"The schema of {what} cannot be used: {error}") from None
    # A new Param: another Dag may share this one, and Param's own copy fails for a Param without a value.
    linear = Param(description=param.description, source=param.source, schema=with_dialect(param.schema))
    linear.value = param.value
    return linear
