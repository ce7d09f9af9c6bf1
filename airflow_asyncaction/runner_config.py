# SPDX-License-Identifier: Apache-2.0
"""Runner configuration: parses and validates ``[asyncaction] runners``.

Separate from the runners, because the API server, which creates their pools, runs no jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import SandboxedEnvironment
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from airflow_asyncaction import settings
from airflow_asyncaction.protocol.reports import is_name

LOCAL, SERVICE, KUBERNETES = "local", "service", "kubernetes"
KINDS = (LOCAL, SERVICE, KUBERNETES)

_OPTION = f"[{settings.SECTION}] runners"
_SUFFIXES = (".json", ".yaml", ".yml")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_CALLABLE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
_SHELL = re.compile(r"(.*/)?(ba|da|a|z|k|fi)?sh")
_TAKES_PROGRAM = re.compile(r"-\w*c\w*")
_POOL_PREFIX = "asyncaction_"


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """One of the configured runners.

    :param kind: ``local``, ``service``, ``kubernetes``, or the path of a class
    :param actions: patterns of the action types that it runs
    :param slots: how many of its actions may run at the same time, in a pool of its own
    :param options: those of its kind, with templates unrendered
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

    :raises ValueError: the configuration is invalid; the message names runner and option
    """
    return parse(settings.load().runners)


def routing_pools() -> dict[str, int]:
    """Return the pools of runners that have a ``concurrency_limit``, with their slots.

    :raises ValueError: as :func:`load`
    """
    return {runner.pool: runner.slots for runner in load() if runner.pool and runner.slots}


def parse(text: str) -> tuple[RunnerConfig, ...]:
    """Parse the value of the option: a JSON list, or the path of a file with a list.

    A relative path starts in AIRFLOW_HOME.

    :raises ValueError: as :func:`load`
    """
    text = text.strip()
    if not text:
        return ()
    entries = _read_file(text) if text.endswith(_SUFFIXES) else _read_json(text)
    if not isinstance(entries, list):
        raise ValueError(f"{_OPTION} must be a list of runners, not a {type(entries).__name__}")
    runners = tuple(_runner(entry, number) for number, entry in enumerate(entries, 1))
    names = [runner.name for runner in runners]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{_OPTION}: two runners are named {duplicate!r}: rename one")
    return runners


def check_names(runner: str, given: Collection[str], known: Collection[str]) -> None:
    """Check that a runner has only known options.

    :raises ValueError: one is unknown; the message suggests the closest known one
    """
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known options are {', '.join(sorted(known))}"
            raise _invalid(runner, name, f"unknown option: {hint}")


def _satisfies(check: Callable[[str], object]) -> AfterValidator:
    def validate(value: str) -> str:
        if not check(value):
            raise ValueError  # the description of the field is the message
        return value

    return AfterValidator(validate)


Text = Annotated[str, StringConstraints(pattern=r"\S")]
PlainName = Annotated[str, StringConstraints(min_length=1), _satisfies(lambda name: "{{" not in name)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ExitCode = Annotated[int, Field(ge=0, le=255)]

_ABSENT: Any = None
"""Default of options: null itself is invalid, and pydantic does not validate defaults."""


class _Entry(BaseModel):
    """Fields of an entry of any kind. The descriptions complete "must be ..." in error messages."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,50}$", description="up to 50 of A-Z a-z 0-9 _ . -")
    kind: Annotated[str, _satisfies(lambda kind: kind in KINDS or _CLASS.fullmatch(kind))] = Field(
        description=f"one of {', '.join(map(repr, KINDS))}, or package.module.Class"
    )
    actions: list[Annotated[str, StringConstraints(min_length=1)]] = Field(
        default=["*"], min_length=1, description='a list of types, such as ["etl.*", "report"]'
    )
    queue: PlainName | None = Field(default=None, description="a name without templates")
    pool: PlainName | None = Field(default=None, description="a name without templates")
    concurrency_limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="an integer of 1 or more"
    )


class RunnerOptions(BaseModel):
    """Options that runners of every kind have, and that operators have as well."""

    model_config = ConfigDict(strict=True, extra="allow")

    heartbeat_timeout: Seconds = Field(default=_ABSENT, description="a number of seconds above 0")
    start_timeout: Seconds = Field(default=_ABSENT, description="a number of seconds above 0")
    stop_grace: float = Field(
        default=_ABSENT, ge=0, allow_inf_nan=False, description="a number of seconds, 0 or more"
    )
    require_report: bool = Field(default=_ABSENT, description="true or false")
    completion: Literal["exit", "report"] = Field(default=_ABSENT, description='"exit" or "report"')
    max_log_lines: int = Field(default=_ABSENT, ge=0, description="an integer of 0 or more")
    skip_on_exit_code: ExitCode | list[ExitCode] = Field(
        default=_ABSENT, description="an exit code from 0 to 255, or a list of them"
    )
    accept_v1: bool = Field(default=_ABSENT, description="true or false")
    file_store: Text = Field(default=_ABSENT, description="the name of a file store")
    orchestrator: Annotated[str, _satisfies(is_name)] = Field(
        default=_ABSENT, description="text of 1 to 250 printable characters"
    )


class _LocalOptions(RunnerOptions):
    model_config = ConfigDict(extra="forbid")

    command: Text | Annotated[list[str], Field(min_length=1)] = Field(
        description="a string for the shell, or a list of strings"
    )
    env: dict[str, str] = Field(default=_ABSENT, description="an object of strings")
    cwd: Text = Field(default=_ABSENT, description="the path of a folder")


class _ServiceOptions(RunnerOptions):
    model_config = ConfigDict(extra="forbid")

    callable: str = Field(pattern=_CALLABLE, description='the name of a callable, "package.module:function"')
    completion: Literal["exit"] = Field(default=_ABSENT, description='"exit": a callable ends by returning')
    skip_on_exit_code: None = Field(  # type: ignore[assignment]
        default=_ABSENT, description="left out: a callable raises AirflowSkipException"
    )


COMMON_OPTIONS: Sequence[str] = tuple(RunnerOptions.model_fields)
"""Names of the options of every kind."""

_MODELS: Mapping[str, type[RunnerOptions]] = {LOCAL: _LocalOptions, SERVICE: _ServiceOptions}
_CODE: Mapping[str, tuple[str, ...]] = {LOCAL: ("command",), KUBERNETES: ("job_resources",)}
_COMMANDS = ("command", "cmds", "args")


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        suffixes = ", ".join(_SUFFIXES)
        raise ValueError(
            f"{_OPTION} must be a JSON list, or the path of a file that ends in {suffixes}: {error}"
        ) from None


def _read_file(name: str) -> Any:
    import yaml
    from airflow.configuration import AIRFLOW_HOME

    path = Path(AIRFLOW_HOME) / name
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{_OPTION}: {path} cannot be read: {error}") from None


def _runner(value: Any, number: int) -> RunnerConfig:
    label = f"number {number}"
    if not isinstance(value, dict):
        raise ValueError(f"{_OPTION}: {label} must be an object, not a {type(value).__name__}")
    try:
        entry = _Entry.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = str(problem["loc"][0])
        runner = label if field == "name" else value["name"]
        text = f"{_expectation(_Entry, field)}, not {value.get(field)!r}"
        raise _invalid(runner, field, text) from None
    options = entry.model_extra or {}
    _check_options(entry, options)
    limit = entry.concurrency_limit
    if limit is not None and entry.pool is not None:
        raise _invalid(entry.name, "concurrency_limit", "creates a pool of its own: remove pool, or this")
    return RunnerConfig(
        name=entry.name,
        kind=entry.kind,
        actions=tuple(entry.actions),
        queue=entry.queue,
        pool=entry.pool if limit is None else f"{_POOL_PREFIX}{entry.name}",
        slots=limit,
        options=options,
    )


def _check_options(entry: _Entry, options: Mapping[str, Any]) -> None:
    """Validate the options that need no Kubernetes client. For a class, only the common ones."""
    model = _MODELS.get(entry.kind, RunnerOptions)
    try:
        model.model_validate(options)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        unknown = [str(each["loc"][0]) for each in problems if each["type"] == "extra_forbidden"]
        check_names(entry.name, unknown, model.model_fields)
        problem, field = problems[0], str(problems[0]["loc"][0])
        text = _expectation(model, field)
        if problem["type"] == "missing":
            text = f"missing: {text}"
        raise _invalid(entry.name, field, text) from None
    _reject_code_injection(entry.name, entry.kind, options)


def _expectation(model: type[BaseModel], field: str) -> str:
    """Return what a field must be. In YAML, the name of a field may be other than text."""
    known = model.model_fields.get(field)
    return "must be text: it is the name of an option" if known is None else f"must be {known.description}"


def _reject_code_injection(runner: str, kind: str, options: Mapping[str, Any]) -> None:
    """Prevent users who launch an action from writing part of a program, or of a manifest."""
    code = [(name, options[name]) for name in _CODE.get(kind, ()) if isinstance(options.get(name), str)]
    for name, text in (*code, *_shell_programs(options)):
        try:
            is_open = _reads_input(text)
        except TemplateSyntaxError as error:
            raise _invalid(runner, name, f"invalid template: {error}") from None
        if is_open:
            raise _invalid(
                runner,
                name,
                "users who launch an action could inject code here. Pass their input as a list element of its"
                " own, as a variable in env, or in JOB_ARGUMENTS",
            )


def _shell_programs(fields: Any) -> Iterator[tuple[str, str]]:
    """Yield the programs in commands, ``TEXT`` of ``sh -c TEXT``, at any depth: pods have containers."""
    if isinstance(fields, list):
        for each in fields:
            yield from _shell_programs(each)
    elif isinstance(fields, dict):
        lists = [(name, fields[name]) for name in _COMMANDS if isinstance(fields.get(name), list)]
        yield from _shell_program(
            [(name, word) for name, words in lists for word in words if isinstance(word, str)]
        )
        for each in fields.values():
            yield from _shell_programs(each)


def _shell_program(command: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    has_shell, before = False, ""
    for name, word in command:
        if has_shell and _TAKES_PROGRAM.fullmatch(before):
            yield name, word
        has_shell |= _SHELL.fullmatch(word) is not None
        before = word


def _reads_input(template: str) -> bool:
    """Return whether a template can read what the user who launches an action writes."""
    tree = SandboxedEnvironment().parse(template)
    parts: dict[int, Any] = {id(node.node): node.attr for node in tree.find_all(nodes.Getattr)}
    for item in tree.find_all(nodes.Getitem):
        parts[id(item.node)] = getattr(item.arg, "value", None)
    seen = {(name.name, parts.get(id(name))) for name in tree.find_all(nodes.Name)}
    return any(
        name == "params" or (name == "action" and part != "type") or (name, part) == ("dag_run", "conf")
        for name, part in seen
    )


def _invalid(runner: str, field: str, problem: str) -> ValueError:
    return ValueError(f"{_OPTION}: {runner}: {field}: {problem}")
