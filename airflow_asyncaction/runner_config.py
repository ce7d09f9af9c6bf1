# SPDX-License-Identifier: Apache-2.0
"""What ``[asyncaction] runners`` says: which runner is for which types of actions, and how it runs them.

Apart from the runners: the API server, which makes their pools, runs nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import SandboxedEnvironment

from airflow_asyncaction import settings
from airflow_asyncaction.protocol.reports import is_name

LOCAL, SERVICE, KUBERNETES = "local", "service", "kubernetes"

_SAID = f"[{settings.SECTION}] runners"
_FILES = (".json", ".yaml", ".yml")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,50}")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SHELL = re.compile(r"(.*/)?(ba|da|a|z|k|fi)?sh")
_TAKES_PROGRAM = re.compile(r"-\w*c\w*")
_POOL_PREFIX = "asyncaction_"


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """One of the configured runners.

    :param kind: ``local``, ``service``, ``kubernetes``, or the path of a class
    :param actions: patterns of the types it is for
    :param slots: how many of its actions may run at a time; its pool is then its own
    :param options: of its kind, templates as they were written
    """

    name: str
    kind: str
    actions: tuple[str, ...]
    queue: str | None
    pool: str | None
    slots: int | None
    options: Mapping[str, Any]


@cache
def load() -> tuple[RunnerConfig, ...]:
    """Return the configured runners in their order, read once per process.

    :raises ValueError: they make no sense; it says which one, and what to do
    """
    return parse(settings.load().runners)


def routing_pools() -> dict[str, int]:
    """Return the slots of the pools that runners have by their ``concurrency_limit``.

    :raises ValueError: as :func:`load`
    """
    return {runner.pool: runner.slots for runner in load() if runner.pool and runner.slots}


def parse(text: str) -> tuple[RunnerConfig, ...]:
    """Return what the option says: a JSON list, or the path of a file that has a list.

    A path that is not absolute begins in AIRFLOW_HOME.

    :raises ValueError: as :func:`load`
    """
    text = text.strip()
    if not text:
        return ()
    entries = _read_file(text) if text.endswith(_FILES) else _read_json(text)
    if not isinstance(entries, list):
        raise ValueError(f"{_SAID} must be a list of runners: it is of type {type(entries).__name__}")
    runners = tuple(_runner(entry, number) for number, entry in enumerate(entries, 1))
    names = [runner.name for runner in runners]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{_SAID}: two are named {twice!r}: rename one")
    return runners


def check_names(runner: str, given: Collection[str], known: Collection[str]) -> None:
    """Refuse options that a kind of runner does not have.

    :raises ValueError: there is one; it names the nearest known one
    """
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise _wrong(runner, name, f"there is no such option: {hint}")


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{_SAID} must be a JSON list, or the path of a file that ends in {', '.join(_FILES)}: {error}"
        ) from None


def _read_file(name: str) -> Any:
    import yaml
    from airflow.configuration import AIRFLOW_HOME

    path = Path(AIRFLOW_HOME) / name
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{_SAID}: {path} cannot be read: {error}") from None


def _runner(entry: Any, number: int) -> RunnerConfig:
    if not isinstance(entry, dict):
        raise ValueError(f"{_SAID}: number {number} is of type {type(entry).__name__}: it must be an object")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{_SAID}: number {number} has the name {name!r}: it must have up to 50 of A-Z a-z 0-9 _ . -"
        )
    kind = entry.get("kind")
    if not isinstance(kind, str) or not (kind in _OPTIONS or _CLASS.fullmatch(kind)):
        kinds = ", ".join(map(repr, _OPTIONS))
        raise _wrong(name, "kind", f"it is {kind!r}: it must be one of {kinds}, or package.module.Class")
    options = {key: value for key, value in entry.items() if key not in _OF_ALL_KINDS}
    _check_options(name, kind, options)
    slots = _slots(name, entry)
    return RunnerConfig(
        name=name,
        kind=kind,
        actions=_actions(name, entry.get("actions", ["*"])),
        queue=_text(name, "queue", entry.get("queue")),
        pool=f"{_POOL_PREFIX}{name}" if slots else _text(name, "pool", entry.get("pool")),
        slots=slots,
        options=options,
    )


def _actions(runner: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
        raise _wrong(runner, "actions", 'it must be a list of types, such as ["etl.*", "report"]')
    return tuple(value)


def _slots(runner: str, entry: Mapping[str, Any]) -> int | None:
    limit = entry.get("concurrency_limit")
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise _wrong(runner, "concurrency_limit", f"it is {limit!r}: it must be an integer of 1 or more")
    if entry.get("pool") is not None:
        raise _wrong(runner, "concurrency_limit", "it makes a pool of its own: leave out pool, or this")
    return limit


def _text(runner: str, field: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value or "{{" in value):
        raise _wrong(runner, field, f"it is {value!r}: it must be a name, and no template")
    return value


def _check_options(runner: str, kind: str, options: Mapping[str, Any]) -> None:
    """Check what can be known without the client of Kubernetes; of a class, what all have."""
    checks = _OPTIONS.get(kind, {})
    if kind in (LOCAL, SERVICE):
        check_names(runner, options, {**checks, **COMMON_OPTIONS})
    for name, is_right, expected in (*_flat(checks), *_flat(COMMON_OPTIONS)):
        if name in options and not is_right(options[name]):
            raise _wrong(runner, name, f"it must be {expected}")
    for name in _REQUIRED.get(kind, ()):
        if name not in options:
            raise _wrong(runner, name, f"it is missing: a runner of kind {kind!r} needs {checks[name][1]}")
    _check_programs(runner, kind, options)


def _check_programs(runner: str, kind: str, options: Mapping[str, Any]) -> None:
    """Refuse to let whoever launches an action write a part of a program, or of a manifest."""
    code = [(name, options[name]) for name in _CODE.get(kind, ()) if isinstance(options.get(name), str)]
    for name, text in (*code, *_programs(options)):
        try:
            is_open = _reads_input(text)
        except TemplateSyntaxError as error:
            raise _wrong(runner, name, f"it is no template: {error}") from None
        if is_open:
            problem = "whoever launches an action could write code into it"
            instead = "an element of its own in a list, a variable in env, or JOB_ARGUMENTS"
            raise _wrong(runner, name, f"{problem}: what they give must come by {instead}")


def _programs(fields: Any) -> Iterator[tuple[str, str]]:
    """Yield what shells in commands run, ``TEXT`` of ``sh -c TEXT``, however deep: pods have containers."""
    if isinstance(fields, list):
        for each in fields:
            yield from _programs(each)
    elif isinstance(fields, dict):
        lists = [(name, fields[name]) for name in _COMMANDS if isinstance(fields.get(name), list)]
        yield from _program(
            [(name, word) for name, words in lists for word in words if isinstance(word, str)]
        )
        for each in fields.values():
            yield from _programs(each)


def _program(command: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    is_of_shell, before = False, ""
    for name, word in command:
        if is_of_shell and _TAKES_PROGRAM.fullmatch(before):
            yield name, word
        is_of_shell |= _SHELL.fullmatch(word) is not None
        before = word


def _reads_input(template: str) -> bool:
    """Tell whether a template can see what whoever launches an action writes."""
    tree = SandboxedEnvironment().parse(template)
    parts: dict[int, Any] = {id(node.node): node.attr for node in tree.find_all(nodes.Getattr)}
    for item in tree.find_all(nodes.Getitem):
        parts[id(item.node)] = getattr(item.arg, "value", None)
    seen = {(name.name, parts.get(id(name))) for name in tree.find_all(nodes.Name)}
    return any(
        name == "params" or (name == "action" and part != "type") or (name, part) == ("dag_run", "conf")
        for name, part in seen
    )


def _flat(checks: Mapping[str, _Check]) -> list[tuple[str, Callable[[Any], bool], str]]:
    return [(name, *check) for name, check in checks.items()]


def _wrong(runner: str, field: str, problem: str) -> ValueError:
    return ValueError(f"{_SAID}: {runner}: {field}: {problem}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_command(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value) and all(isinstance(part, str) for part in value)
    return is_list or _is_text(value)


def _is_environ(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(text, str) for key, text in value.items()
    )


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_callable(value: Any) -> bool:
    return isinstance(value, str) and _CALLABLE.fullmatch(value) is not None


def _is_grace(value: Any) -> bool:
    return value == 0 or _is_seconds(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_exit_codes(value: Any) -> bool:
    codes = value if isinstance(value, list) else [value]
    return all(_is_count(code) and code < 256 for code in codes)


_Check = tuple[Callable[[Any], bool], str]

COMMON_OPTIONS: Mapping[str, _Check] = {
    "heartbeat_timeout": (_is_seconds, "a number of seconds above 0"),
    "start_timeout": (_is_seconds, "a number of seconds above 0"),
    "stop_grace": (_is_grace, "a number of seconds, 0 or more"),
    "require_report": (_is_flag, "true or false"),
    "completion": (lambda value: value in ("exit", "report"), '"exit" or "report"'),
    "log_limit": (_is_count, "an integer of 0 or more"),
    "skip_on_exit_code": (_are_exit_codes, "an exit code from 0 to 255, or a list of them"),
    "accept_v1": (_is_flag, "true or false"),
    "file_store": (_is_text, "the name of a file store"),
    "orchestrator": (is_name, "text of 1 to 250 printable characters"),
}
"""What is the same for runners of all kinds, and can be given to operators as well."""

_OPTIONS: Mapping[str, Mapping[str, _Check]] = {
    LOCAL: {
        "command": (_is_command, "a string for the shell, or a list of strings"),
        "env": (_is_environ, "an object of strings"),
        "cwd": (_is_text, "the path of a folder"),
    },
    SERVICE: {
        "callable": (_is_callable, 'the name of a callable, "package.module:function"'),
        "completion": (lambda value: value == "exit", '"exit": the end of a callable is its return'),
        "skip_on_exit_code": (
            lambda value: value is None,
            "left out: a callable raises AirflowSkipException",
        ),
    },
    KUBERNETES: {},
}
_CODE: Mapping[str, tuple[str, ...]] = {LOCAL: ("command",), KUBERNETES: ("job_resources",)}
_COMMANDS = ("command", "cmds", "args")
_REQUIRED: Mapping[str, tuple[str, ...]] = {LOCAL: ("command",), SERVICE: ("callable",)}
_OF_ALL_KINDS = frozenset({"name", "kind", "actions", "queue", "pool", "concurrency_limit"})
