# SPDX-License-Identifier: Apache-2.0
"""Manifest variables, as in webda's KubeRunner: ``${JOB_ID}``, ``${image}``, ``${env.NAME}``."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from airflow_asyncaction.protocol.job_info import JOB_SECRET_KEY

ENV = "env."
_VARIABLE = re.compile(r"(?P<escape>[$\\]?)\$\{(?P<name>[^{}]*)(?P<end>\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_NAME = re.compile(r"env\.[A-Za-z_][A-Za-z0-9_]*")
_APPLICATION_VARIABLES = ("package", "git", "deployment", "webda", "now")
_OPENING = "${"
_OPENING_OF_VARIABLE = re.compile(r"\$\{(?![{%#])")  # otherwise it is a dollar sign and a template


def replace_variables(document: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    r"""Return a manifest with the variables in its strings replaced. ``$${X}`` and ``\${X}`` become ``${X}``.

    :param variables: values by name; those of the environment are named ``env.NAME``
    :raises ValueError: other variables occur; the message lists them, and what to write instead
    """
    unknown: dict[str, None] = {}

    def value_of(match: re.Match[str]) -> str:
        if match["escape"]:
            return match[0][1:]
        name = match["name"].strip()
        if not match["end"] or name not in variables:
            unknown[match[0]] = None
        return variables.get(name, "")

    replaced: dict[str, Any] = _map_strings(document, lambda text: _VARIABLE.sub(value_of, text))
    if unknown:
        advice = "; ".join(_find_advice(text) for text in unknown)
        known = ", ".join(sorted(f"${{{name}}}" for name in variables if not name.startswith(ENV)))
        raise ValueError(
            f"The manifest contains unknown variables. {advice}. Known ones are {known} and, for the worker's"
            " environment, ${env.NAME}. Write $${NAME} to pass ${NAME} to the container"
        )
    return replaced


def render_around(manifest: Any, render: Callable[[Any], Any]) -> Any:
    """Render the templates in a manifest. A ``${X}`` that they insert is data, not a variable.

    Otherwise the author of that data could read the worker's environment.
    """
    mark = secrets.token_hex(16)  # random, so that no data contains it
    rendered = render(_map_strings(manifest, lambda text: _OPENING_OF_VARIABLE.sub(mark, text)))
    return _map_strings(rendered, lambda text: text.replace(_OPENING, f"${_OPENING}").replace(mark, _OPENING))


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(name, change): _map_strings(each, change) for name, each in value.items()}
    return [_map_strings(each, change) for each in value] if isinstance(value, list | tuple) else value


def _find_advice(variable: str) -> str:
    name = variable.removeprefix(_OPENING).removesuffix("}").strip()
    if not variable.endswith("}"):
        return f"{variable} has no closing brace"
    if name == JOB_SECRET_KEY:
        return f"{variable} is already in the environment of each container, from a Secret: remove it here"
    if name == "image":
        return f"{variable} needs an image: set it in the operator or its runner"
    if _ENV_NAME.fullmatch(name):
        return f"{variable} is not set in the worker's environment, or is part of Airflow's configuration"
    if re.split(r"\W", name)[0] in _APPLICATION_VARIABLES:
        return f"{variable} exists only in a webda application: write its value instead"
    if _NAME.fullmatch(name):
        return f"{variable} is unknown"
    return f"{variable} is an expression, but only names are replaced"
