# SPDX-License-Identifier: Apache-2.0
"""LocalActionOperator: runs a command as a child process of the worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_asyncaction.operators.base import BaseActionOperator
from airflow_asyncaction.runners.base import Runner, drop_airflow_variables
from airflow_asyncaction.runners.local import LocalRunner


class LocalActionOperator(BaseActionOperator):
    """Run a command as a child process of the worker. The program can be written in any language.

    The job inherits the worker's environment, except Airflow's configuration, connections and variables
    (``AIRFLOW__*``, ``AIRFLOW_CONN_*``, ``AIRFLOW_VAR_*``). ``env`` and the JOB_ variables are added. Its
    output goes into the task log line by line. When the task ends, so do the job and everything it
    started, except work that it submitted with ``completion="report"``.

    :param command: a list of strings, a string for the shell, or the name of a template file that ends in
        ``.sh`` or ``.bash``. (templated)
    :param env: environment variables to add. (templated)
    :param cwd: the working directory. Defaults to the worker's. (templated)

    For the other parameters see :class:`~airflow_asyncaction.operators.base.BaseActionOperator`.
    """

    template_fields: Sequence[str] = ("command", "env", "cwd", *BaseActionOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "command": "bash",
        "env": "json",
        **BaseActionOperator.template_fields_renderers,
    }
    template_ext: Sequence[str] = (".sh", ".bash")
    ui_color = "#f0ede4"

    def __init__(
        self,
        *,
        command: Sequence[str] | str,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.env = env
        self.cwd = cwd

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return a LocalRunner."""
        try:
            command = check_command(self.command)
        except ValueError as error:
            raise ValueError(
                f"command is {error}: it must be a non-empty string for the shell, or a list of strings"
            ) from None
        return LocalRunner(
            command=command,
            environ={**drop_airflow_variables(os.environ), **_checked_env(self.env)},
            cwd=_checked_cwd(self.cwd),
            stop_grace=self.stop_grace,
            completion=self.options.completion,
            write_line=lambda _, line: self.log.info("%s", line),
        )

    def resolve_template_files(self) -> None:
        """Read the command's template file.

        Only a ``command`` of one word can name a file, so that a command's last argument may end in ``.sh``.
        """
        if isinstance(self.command, str) and _names_file(self.command, self.template_ext):
            environment = self.get_template_env()
            if environment.loader is not None:
                self.command = environment.loader.get_source(environment, self.command)[0]
        self.prepare_template()

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Render a value as text, even if it ends like the name of a template file, except ``command``."""
        if isinstance(content, str) and content.endswith(tuple(self.template_ext)):
            if content is self.command and _names_file(content, self.template_ext):
                return super().render_template(content, *args, **kwargs)
            return super().render_template(content + "\n", *args, **kwargs).removesuffix("\n")
        return super().render_template(content, *args, **kwargs)


def _names_file(command: str, extensions: Sequence[str]) -> bool:
    return command.endswith(tuple(extensions)) and len(command.split()) == 1 and "{{" not in command


def check_command(command: Any) -> list[str] | str:
    """Return a command as a string for the shell or as a list.

    :raises ValueError: it is neither; the message says what it is, without its content, which may be secret
    """
    if isinstance(command, str):
        if command.strip():
            return command
        raise ValueError("an empty string")
    if command is None:
        raise ValueError("None")
    if not isinstance(command, Sequence) or isinstance(command, bytes):
        raise ValueError(f"a value of type {type(command).__name__}")
    if not command:
        raise ValueError("an empty list")
    for index, part in enumerate(command):
        if not isinstance(part, str):
            raise ValueError(f"a list whose item {index} is of type {type(part).__name__}")
    return list(command)


def _checked_env(env: Any) -> dict[str, str]:
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise ValueError("env must be a mapping of strings to strings")
    for name, value in env.items():
        if not isinstance(name, str):
            raise ValueError(f"env must map strings to strings, but has the name {name!r}")
        if not isinstance(value, str):
            raise ValueError(f"env must map strings to strings, but {name} is of type {type(value).__name__}")
    return dict(env)


def _checked_cwd(cwd: Any) -> str | None:
    if cwd is None or isinstance(cwd, str):
        return cwd
    if isinstance(cwd, os.PathLike) and isinstance(path := os.fspath(cwd), str):
        return path
    raise ValueError(f"cwd must be a path, but is of type {type(cwd).__name__}")
