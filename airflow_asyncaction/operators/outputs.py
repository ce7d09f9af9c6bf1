# SPDX-License-Identifier: Apache-2.0
"""What a job has left, as Airflow users know it: XComs, and asset events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, BaseOperator

from airflow_asyncaction.operators.inputs import checked_property_name

FILES_KEY = "files"
"""XCom key of all files."""

FilesByProperty = dict[str, list[dict[str, Any]]]
"""An action's outputs, in the order of their indexes (``FileRecord.to_json``)."""

_KEYS_OF_OTHERS = frozenset({"return_value", "action_id", FILES_KEY})


def by_property(files: list[dict[str, Any]]) -> FilesByProperty:
    """Group files by property."""
    grouped: FilesByProperty = {}
    for file in files:
        grouped.setdefault(file["property"], []).append(file)
    return grouped


def push_files(ti: Any, files: FilesByProperty) -> None:
    """Push the XCom ``files``, and one for each property.

    ``task.output["files"]["model"]`` is, to Airflow, the XCom ``model``: the last key is the one that counts.
    """
    if not files:
        return
    ti.xcom_push(key=FILES_KEY, value=files)
    for property_, of_property in files.items():
        if property_ not in _KEYS_OF_OTHERS:
            ti.xcom_push(key=property_, value=of_property)


def checked_assets(assets: Mapping[str, Asset] | None) -> dict[str, Asset]:
    """Return assets by the property that updates them.

    :raises ValueError: one is no asset, or has a name that no property has
    """
    checked = {}
    for property_, asset in (assets or {}).items():
        if not isinstance(asset, Asset):
            raise ValueError(f"output_assets[{property_!r}] must be an Asset")
        checked[checked_property_name("output_assets", property_)] = asset
    return checked


def check_outlets(operator: BaseOperator, assets: Mapping[str, Asset]) -> None:
    """Check that Airflow knows of the assets that a task updates: it drops the events of others.

    :raises ValueError: it does not, since they were given where only the worker of a mapped task sees them
    """
    if not assets or not operator.has_dag():
        return
    declared = operator.dag.get_task(operator.task_id).outlets or ()
    for property_, asset in assets.items():
        if asset not in declared:
            raise ValueError(
                f"output_assets[{property_!r}]: Airflow does not know that this mapped task updates"
                f" {asset.name!r}, and would drop its events. Give output_assets to the decorator of the"
                " function, rather than to override() or default_args; or name all such assets in outlets"
            )


def emit_events(
    operator: BaseOperator, context: Mapping[str, Any], assets: Mapping[str, Asset], files: FilesByProperty
) -> None:
    """Say what the event of each asset tells, and emit none for an asset whose file was not left."""
    for property_, asset in assets.items():
        of_property = files.get(property_)
        if of_property is None:
            operator.outlets = [outlet for outlet in operator.outlets if outlet != asset]
        else:
            context["outlet_events"][asset].extra.update(_extra(of_property))


def _extra(files: list[dict[str, Any]]) -> dict[str, Any]:
    if len(files) == 1:
        return files[0]
    return {"size": sum(file["size"] for file in files), "files": files}
