# SPDX-License-Identifier: Apache-2.0
"""Which of the configured runners launches an action, and what a runner of the user's own is given.

A runner of one's own is a class with the methods of :class:`~airflow_asyncaction.runners.base.Runner`. Its
path is the ``kind`` in ``[asyncaction] runners``, and it is made with a :class:`RoutedAction`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runner_config import RunnerConfig
from airflow_asyncaction.runners.base import OnLaunched

if TYPE_CHECKING:
    from airflow.sdk.types import Logger
    from jinja2 import Environment


@dataclass(frozen=True, kw_only=True)
class RoutedAction:
    """The action that a custom runner is created for.

    :param type: of the action
    :param arguments: of the action; the job gets them in any case
    :param service_name: the service whose ``method`` the job calls; ``arguments`` is then a list
    :param options: what else stands in the runner's configuration, rendered
    :param stop_grace: between asking the job to stop and killing it
    :param log: the task's log: what the job writes should go there
    """

    type: str
    arguments: Any
    options: Mapping[str, Any]
    stop_grace: timedelta
    log: Logger
    service_name: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class NoMatch:
    """No runner is for actions of this type.

    :param looked_at: all runners there are
    """

    type: str
    looked_at: Sequence[RunnerConfig]

    def __str__(self) -> str:
        if not self.looked_at:
            return f"No runner is for type {self.type!r}: [asyncaction] runners is empty. Set it"
        seen = "; ".join(f"{runner.name} is for {', '.join(runner.actions)}" for runner in self.looked_at)
        return (
            f"No runner is for type {self.type!r}: {seen}. Add the type to the actions of one in"
            " [asyncaction] runners, or set fallback_on_first"
        )


def choose(
    runners: Sequence[RunnerConfig], type_: str, *, fallback_on_first: bool = False
) -> RunnerConfig | NoMatch:
    """Return the first runner that is for a type; or, if it is to take what none is for, the first one."""
    for runner in runners:
        if any(matches(pattern, type_) for pattern in runner.actions):
            return runner
    return runners[0] if runners and fallback_on_first else NoMatch(type_, runners)


def matches(pattern: str, type_: str) -> bool:
    """Tell whether a type is one of a pattern's: ``*`` stands for any text, all else for itself."""
    first, *others = pattern.split("*")
    if not others:
        return type_ == pattern
    *between, last = others
    if not type_.startswith(first):
        return False
    position = len(first)
    for part in between:  # the leftmost place leaves the most for the next: nothing is ever tried again
        found = type_.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return len(type_) - len(last) >= position and type_.endswith(last)


def rendered(value: Any, environment: Environment, variables: Mapping[str, Any]) -> Any:
    """Return an option with each string in it rendered, once: what is put into it is no template."""
    if isinstance(value, str):
        return environment.from_string(value).render(variables)
    if isinstance(value, list):
        return [rendered(each, environment, variables) for each in value]
    if isinstance(value, dict):
        return {key: rendered(each, environment, variables) for key, each in value.items()}
    return value


def imported(path: str) -> Any:
    """Return what ``package.module:name`` or ``package.module.Class`` names.

    :raises ImportError: there is nothing of that name
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    found: Any = import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ImportError(f"There is no {name} in {module}")
        found = getattr(found, part)
    return found


class NothingRunner:
    """Launches nothing: the action ends as the error that it is given."""

    name = "none"
    copies_reported_logs = False

    def __init__(self, exit_: Exit) -> None:
        self._exit = exit_

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        """Return the end at once."""
        return self._exit

    def stop(self) -> None:
        """Do nothing: nothing runs."""

    def wait(self) -> Exit:
        """Return the end."""
        return self._exit

    def release(self) -> None:
        """Do nothing: nothing is held."""
