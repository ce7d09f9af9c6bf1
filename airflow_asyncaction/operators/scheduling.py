# SPDX-License-Identifier: Apache-2.0
"""Arguments of Airflow's that follow from ours, and that its servers read from the serialized Dag.

A mapped task is serialized as what was given to ``partial()``, or to its decorator: no ``__init__`` runs for
it until it is on a worker. So all who make tasks derive these arguments here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset

from airflow_asyncaction.operators.outputs import checked_assets
from airflow_asyncaction.protocol.operations import Declaration


def for_scheduler(
    type_: str | None, output_assets: Mapping[str, Asset] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is derived from a type and output assets.

    :param given: Airflow's arguments as the Dag author gave them
    :raises ValueError: a value is not an asset, or a name cannot be that of a property
    """
    derived: dict[str, Any] = {}
    given = {**(given.get("default_args") or {}), **given}
    assets = checked_assets(output_assets)
    if assets:
        derived["outlets"] = _all_outlets(given.get("outlets"), assets)
    if type_ is not None and given.get("doc_json") is None:
        # So that the API server knows the type, should the Dag be launched as an operation.
        derived["doc_json"] = Declaration(type=type_).to_doc()
    return derived


def from_author(name: str, given: Mapping[str, Any], default_args: Mapping[str, Any] | None) -> Any:
    """Return an argument of a task that is to be mapped, also one from the nearest ``default_args``.

    :param given: arguments of the task, with its Dag and task group
    :param default_args: of the task itself
    """
    groups = (getattr(given.get(owner), "default_args", None) for owner in ("task_group", "dag"))
    sources = (source for source in (given, default_args, *groups) if source)
    return next((source[name] for source in sources if name in source), None)


def with_derived(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a decorator, with what is derived from them."""
    return {**given, **for_scheduler(given.get("type"), given.get("output_assets"), given)}


def _all_outlets(outlets: Any, assets: Mapping[str, Asset]) -> list[Any]:
    given = outlets if isinstance(outlets, list | tuple) else [outlets] if outlets else []
    return [*given, *(asset for asset in assets.values() if asset not in given)]
