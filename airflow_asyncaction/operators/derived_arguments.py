# SPDX-License-Identifier: Apache-2.0
"""Airflow's own arguments that follow from an action's, such as outlets: derived for the serialized Dag.

A mapped task is serialized with the arguments of ``partial()`` or of its decorator. Its ``__init__`` runs
only on workers. Therefore constructors, ``partial()`` and decorators all derive these arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset

from airflow_asyncaction.operators.files import check_assets
from airflow_asyncaction.protocol.operations import Declaration


def derive_arguments(
    type_: str | None, output_assets: Mapping[str, Asset] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that follow from a type and output assets.

    :param given: Airflow's arguments as the Dag author gave them
    :raises ValueError: a value is not an asset, or a property name is invalid
    """
    derived: dict[str, Any] = {}
    given = {**(given.get("default_args") or {}), **given}
    assets = check_assets(output_assets)
    if assets:
        derived["outlets"] = _all_outlets(given.get("outlets"), assets)
    if type_ is not None and given.get("doc_json") is None:
        # The API server reads the type from here when the Dag is launched as an operation.
        derived["doc_json"] = Declaration(type=type_).to_doc()
    return derived


def with_derived_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a decorator, together with those that follow from them."""
    return {**given, **derive_arguments(given.get("type"), given.get("output_assets"), given)}


def find_argument(name: str, given: Mapping[str, Any], default_args: Mapping[str, Any] | None) -> Any:
    """Return an argument of a task that is about to be mapped, or its value in the nearest ``default_args``.

    :param given: arguments of the task, including its Dag and task group
    :param default_args: of the task itself
    """
    groups = (getattr(given.get(owner), "default_args", None) for owner in ("task_group", "dag"))
    sources = (source for source in (given, default_args, *groups) if source)
    return next((source[name] for source in sources if name in source), None)


def _all_outlets(outlets: Any, assets: Mapping[str, Asset]) -> list[Any]:
    given = outlets if isinstance(outlets, list | tuple) else [outlets] if outlets else []
    return [*given, *(asset for asset in assets.values() if asset not in given)]
