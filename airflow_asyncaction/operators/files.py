# SPDX-License-Identifier: Apache-2.0
"""Files of an action: inputs that a task attaches, and outputs as XComs and asset events."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from airflow.sdk import Asset, BaseOperator, ObjectStoragePath

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.hooks.task import PATIENCE, TaskHook
from airflow_asyncaction.protocol.files import FileReference, checked_property, is_file_name
from airflow_asyncaction.protocol.tasks import TaskCredentials

FILES_KEY = "files"
"""XCom key of all output files."""

FilesByProperty = dict[str, list[dict[str, Any]]]
"""An action's output files (``FileRecord.to_json``) by property, in the order of their indexes."""

AnyPath = Path | ObjectStoragePath

_RESERVED_KEYS = frozenset({"return_value", "action_id", FILES_KEY})


@dataclass(frozen=True)
class InputFile:
    """A file to copy into the file store.

    :param name: the name under which the job sees it
    """

    name: str
    path: AnyPath


def check_inputs(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the property names of inputs.

    :raises ValueError: inputs is not a mapping, or a name is invalid
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        raise ValueError("inputs must be a mapping of names to files")
    return {_check_property_name("inputs", name): value for name, value in inputs.items()}


def check_assets(assets: Mapping[str, Asset] | None) -> dict[str, Asset]:
    """Check the assets that output properties update.

    :raises ValueError: a value is not an asset, or a property name is invalid
    """
    checked = {}
    for property_, asset in (assets or {}).items():
        if not isinstance(asset, Asset):
            raise ValueError(f"output_assets[{property_!r}] must be an Asset")
        checked[_check_property_name("output_assets", property_)] = asset
    return checked


def _check_property_name(argument: str, name: Any) -> str:
    try:
        return checked_property(name)
    except MalformedRequest as error:
        raise ValueError(f"{argument}: {name!r} is not a valid name. {error}") from None


def attach_inputs(
    hook: TaskHook, credentials: TaskCredentials, inputs: Mapping[str, Any] | None, *, store: str
) -> None:
    """Attach inputs to an action before its job is launched. One input may have several files, in order.

    A file of another action is linked, not copied. This process reads any other file twice: first to check
    whether the file store already has it, then to copy it.

    :raises ValueError: an input is not a file, or its name is invalid
    :raises OSError: an input cannot be read
    :raises ServerError: the server refuses an input
    """
    checked = check_inputs(inputs)
    if not checked:
        return
    # Most tasks have no inputs, and do not need the job's client.
    from airflow_asyncaction.job.content_client import ContentClient
    from airflow_asyncaction.job.file_transfer import Source, send_file
    from airflow_asyncaction.job.files import guess_mimetype
    from airflow_asyncaction.job.proxies import Proxies

    contents = ContentClient(proxies=Proxies.of_worker(hook.base_url))
    for property_, value in checked.items():
        for source in resolve_input(property_, value):
            if isinstance(source, FileReference):
                hook.link_input(credentials, property_, source)
                continue
            send_file(
                lambda request: hook.send(credentials, request.method, request.path, request.body),
                f"/task/inputs/{store}/{property_}",
                Source(source.name, partial(_open, source.path)),
                contents=contents,
                mimetype=guess_mimetype(source.name),
                patience_seconds=PATIENCE.total_seconds(),
            )


def resolve_input(property_: str, value: Any) -> Iterator[InputFile | FileReference]:
    """Return the files of an input.

    :raises ValueError: it is not a file
    :raises FileNotFoundError: it does not exist
    """
    if isinstance(value, Mapping):
        try:
            yield FileReference.from_json(value)
        except MalformedRequest as error:
            raise ValueError(f"inputs[{property_!r}] is not a file of an action: {error}") from None
    elif isinstance(value, ObjectStoragePath | PurePath | str):
        yield from _find_files(property_, _as_path(property_, value))
    elif isinstance(value, Sequence):
        for each in value:
            yield from resolve_input(property_, each)
    elif value is None:
        raise ValueError(f"inputs[{property_!r}] is None: the upstream task has no such output file")
    else:
        raise ValueError(
            f"inputs[{property_!r}] is of type {type(value).__name__}: it must be a path, a URL, an"
            " ObjectStoragePath, a file of an upstream task, or a list of these"
        )


def _as_path(property_: str, value: ObjectStoragePath | PurePath | str) -> AnyPath:
    if isinstance(value, ObjectStoragePath):
        return value
    if isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        return Path(unquote(parts.path)) if parts.scheme == "file" else ObjectStoragePath(value)
    path = Path(value)
    if not path.is_absolute():
        raise ValueError(
            f"inputs[{property_!r}] is the relative path {os.fspath(path)!r}: use an absolute path or a URL"
        )
    return path


def _find_files(property_: str, path: AnyPath) -> list[InputFile]:
    """Return the file, or all files below the folder, sorted by name.

    :raises FileNotFoundError: no file exists
    """
    if path.is_file():
        return [_input_file(property_, path.name, path)]
    if not path.is_dir():
        raise FileNotFoundError(f"inputs[{property_!r}]: {path} does not exist")
    files = [each for each in path.rglob("*") if each.is_file()]
    named = [(str(each)[len(str(path)) :].lstrip("/"), each) for each in files]
    if not named:
        raise FileNotFoundError(f"inputs[{property_!r}]: the folder {path} has no files")
    return [_input_file(property_, name, each) for name, each in sorted(named, key=lambda pair: pair[0])]


def _input_file(property_: str, name: str, path: AnyPath) -> InputFile:
    if not is_file_name(name):
        raise ValueError(f"inputs[{property_!r}]: {name!r} is not a valid file name")
    return InputFile(name, path)


def _open(path: AnyPath) -> BinaryIO:
    return cast("BinaryIO", path.open("rb"))


def group_by_property(files: list[dict[str, Any]]) -> FilesByProperty:
    """Group output files by property."""
    grouped: FilesByProperty = {}
    for file in files:
        grouped.setdefault(file["property"], []).append(file)
    return grouped


def push_files(ti: Any, files: FilesByProperty) -> None:
    """Push the XCom ``files``, and an XCom per property.

    Airflow resolves ``task.output["files"]["model"]`` by its last key alone, as the XCom ``model``.
    """
    if not files:
        return
    ti.xcom_push(key=FILES_KEY, value=files)
    for property_, of_property in files.items():
        if property_ not in _RESERVED_KEYS:
            ti.xcom_push(key=property_, value=of_property)


def check_outlets(operator: BaseOperator, assets: Mapping[str, Asset]) -> None:
    """Check that the assets are outlets of the serialized task: Airflow drops events of other assets.

    :raises ValueError: an outlet is missing, because its asset was set where only the worker of a mapped task
        sees it (``override()``, ``default_args``)
    """
    if not assets or not operator.has_dag():
        return
    declared = operator.dag.get_task(operator.task_id).outlets or ()
    for property_, asset in assets.items():
        if asset not in declared:
            raise ValueError(
                f"output_assets[{property_!r}]: the mapped task has no outlet {asset.name!r}, so Airflow"
                " would drop its events. Pass output_assets to the decorator, not to override() or"
                " default_args, or list all such assets in outlets"
            )


def add_event_extras(
    operator: BaseOperator, context: Mapping[str, Any], assets: Mapping[str, Asset], files: FilesByProperty
) -> None:
    """Add files to the extras of asset events. An asset without a file gets no event."""
    for property_, asset in assets.items():
        of_property = files.get(property_)
        if of_property is None:
            operator.outlets = [outlet for outlet in operator.outlets if outlet != asset]
        else:
            context["outlet_events"][asset].extra.update(_event_extra(of_property))


def _event_extra(files: list[dict[str, Any]]) -> dict[str, Any]:
    if len(files) == 1:
        return files[0]
    return {"size": sum(file["size"] for file in files), "files": files}
