# SPDX-License-Identifier: Apache-2.0
"""What a Dag author gives a job to read: files anywhere, and files that other jobs have left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from airflow.sdk import ObjectStoragePath

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.hooks.task import PATIENCE, TaskHook
from airflow_asyncaction.job.content import Contents
from airflow_asyncaction.job.files import guess_mimetype
from airflow_asyncaction.job.proxies import Proxies
from airflow_asyncaction.job.transfer import Source, send_file
from airflow_asyncaction.protocol.files import FileReference, checked_property, is_file_name
from airflow_asyncaction.protocol.tasks import TaskCredentials

AnyPath = Path | ObjectStoragePath


@dataclass(frozen=True)
class InputFile:
    """An input file to copy into the file store.

    :param name: file name that the job sees
    """

    name: str
    path: AnyPath


def checked_inputs(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return inputs whose properties can be named so.

    :raises ValueError: they cannot
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        raise ValueError("inputs must be a mapping of names to files")
    return {checked_property_name("inputs", name): value for name, value in inputs.items()}


def checked_property_name(argument: str, name: Any) -> str:
    """Return the name of a property.

    :raises ValueError: it is none
    """
    try:
        return checked_property(name)
    except MalformedRequest as error:
        raise ValueError(f"{argument}: {name!r} cannot be a name. {error}") from None


def give_inputs(
    hook: TaskHook, credentials: TaskCredentials, inputs: Mapping[str, Any], *, store: str
) -> None:
    """Attach inputs to an action before its job is launched, each as one or more files in their order.

    What another action has left is linked, not copied. Anything else is read by this process, twice (to know
    whether it is stored already), and goes into the file store.

    :raises ValueError: an input is nothing that can be read
    :raises OSError: it cannot be read
    :raises ServerError: the server does not take it
    """
    contents = Contents(proxies=Proxies.of_worker(hook.base_url))
    for property_, given in inputs.items():
        for source in sources(property_, given):
            if isinstance(source, FileReference):
                hook.link_input(credentials, property_, source)
                continue
            send_file(
                lambda request: hook.send(credentials, request.method, request.path, request.body),
                f"/task/inputs/{store}/{property_}",
                Source(source.name, lambda path=source.path: _open(path)),  # type: ignore[misc]
                contents=contents,
                mimetype=guess_mimetype(source.name),
                patience_seconds=PATIENCE.total_seconds(),
            )


def sources(property_: str, given: Any) -> Iterator[InputFile | FileReference]:
    """Return what an input consists of.

    :raises ValueError: it is nothing that can be read
    :raises FileNotFoundError: it is not there
    """
    if isinstance(given, Mapping):
        try:
            yield FileReference.from_json(given)
        except MalformedRequest as error:
            raise ValueError(f"inputs[{property_!r}] is not a file of an action: {error}") from None
    elif isinstance(given, ObjectStoragePath | PurePath | str):
        yield from _found(property_, _as_path(property_, given))
    elif isinstance(given, Sequence):
        for each in given:
            yield from sources(property_, each)
    elif given is None:
        raise ValueError(f"inputs[{property_!r}] is None: the upstream task has left no such file")
    else:
        raise ValueError(
            f"inputs[{property_!r}] is of type {type(given).__name__}: it must be a path, an URL, an"
            " ObjectStoragePath, a file of an upstream task, or a list of those"
        )


def _as_path(property_: str, given: ObjectStoragePath | PurePath | str) -> AnyPath:
    if isinstance(given, ObjectStoragePath):
        return given
    if isinstance(given, str) and "://" in given:
        parts = urlsplit(given)
        return Path(unquote(parts.path)) if parts.scheme == "file" else ObjectStoragePath(given)
    path = Path(given)
    if not path.is_absolute():
        raise ValueError(f"inputs[{property_!r}] is {os.fspath(path)!r}: give an absolute path, or an URL")
    return path


def _found(property_: str, path: AnyPath) -> list[InputFile]:
    """Return the file, or all files below the folder, sorted by name.

    :raises FileNotFoundError: there is none
    """
    if path.is_file():
        return [_named(property_, path.name, path)]
    if not path.is_dir():
        raise FileNotFoundError(f"inputs[{property_!r}]: there is no {path}")
    files = [each for each in path.rglob("*") if each.is_file()]
    named = [(str(each)[len(str(path)) :].lstrip("/"), each) for each in files]
    if not named:
        raise FileNotFoundError(f"inputs[{property_!r}]: there is no file in {path}")
    return [_named(property_, name, each) for name, each in sorted(named, key=lambda pair: pair[0])]


def _named(property_: str, name: str, path: AnyPath) -> InputFile:
    if not is_file_name(name):
        raise ValueError(f"inputs[{property_!r}]: {name!r} cannot be the name of a job's file")
    return InputFile(name, path)


def _open(path: AnyPath) -> BinaryIO:
    return cast("BinaryIO", path.open("rb"))
