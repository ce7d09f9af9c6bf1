# SPDX-License-Identifier: Apache-2.0
"""Routing: selects the configured runner of an action by the action's type.

A custom runner is a class with the methods of :class:`~airflow_asyncaction.runners.base.Runner`. Its path is
the ``kind`` in ``[asyncaction] runners``, and it is created with a :class:`RoutedAction`.
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

    :param type: the action's type
    :param arguments: the action's arguments; the job receives them anyway
    :param service_name: the service whose ``method`` the job calls; ``arguments`` is then a list
    :param options: the other options in the runner's configuration, rendered
    :param stop_grace: time between asking the job to stop and killing it
    :param log: the task log, where the job's output should go
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
    """No configured runner handles actions of this type.

    :param runners: all configured runners
    """

    type: str
    runners: Sequence[RunnerConfig]

    def __str__(self) -> str:
        if not self.runners:
            return f"No runner handles the type {self.type!r}: set [asyncaction] runners, which is empty"
        known = "; ".join(f"{runner.name} handles {', '.join(runner.actions)}" for runner in self.runners)
        return (
            f"No runner handles the type {self.type!r}: {known}. Add the type to the actions of one in"
            " [asyncaction] runners, or set fallback_on_first"
        )


def choose_runner(
    runners: Sequence[RunnerConfig], type_: str, *, fallback_on_first: bool = False
) -> RunnerConfig | NoMatch:
    """Return the first runner that handles a type, else the first of all if ``fallback_on_first``."""
    for runner in runners:
        if any(matches_pattern(pattern, type_) for pattern in runner.actions):
            return runner
    return runners[0] if runners and fallback_on_first else NoMatch(type_, runners)


def matches_pattern(pattern: str, type_: str) -> bool:
    """Return whether a type matches a pattern, in which ``*`` matches any text."""
    first, *others = pattern.split("*")
    if not others:
        return type_ == pattern
    *between, last = others
    if not type_.startswith(first):
        return False
    position = len(first)
    for part in between:  # the leftmost match leaves the most for the next: no backtracking
        found = type_.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return len(type_) - len(last) >= position and type_.endswith(last)


def render_option(value: Any, environment: Environment, variables: Mapping[str, Any]) -> Any:
    """Return an option with each string in it rendered once: inserted text is not a template."""
    if isinstance(value, str):
        return environment.from_string(value).render(variables)
    if isinstance(value, list):
        return [render_option(each, environment, variables) for each in value]
    if isinstance(value, dict):
        return {key: render_option(each, environment, variables) for key, each in value.items()}
    return value


def import_object(path: str) -> Any:
    """Import the object ``package.module:name`` or ``package.module.Class``.

    :raises ImportError: it does not exist
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    found: Any = import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ImportError(f"Module {module} has no {name}")
        found = getattr(found, part)
    return found


class FailingRunner:
    """Launches nothing: the action ends with an error."""

    name = "none"
    copies_reported_logs = False

    def __init__(self, exit_: Exit) -> None:
        self._exit = exit_

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        """Return the error at once."""
        return self._exit

    def stop(self) -> None:
        """Do nothing: nothing runs."""

    def wait(self) -> Exit:
        """Return the error."""
        return self._exit

    def release(self) -> None:
        """Do nothing: there is nothing to clean up."""
