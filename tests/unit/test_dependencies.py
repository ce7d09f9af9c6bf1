# SPDX-License-Identifier: Apache-2.0
"""Declared dependencies: pyproject.toml lists exactly the distributions that the package imports."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "airflow_asyncaction"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
PROVIDERS = ("airflow.providers.cncf.kubernetes", "airflow.providers.common.compat")
OWNERS = {  # namespaces that several distributions share
    "airflow": {"apache-airflow"},
    "opentelemetry": {"opentelemetry-api"},
    **{name: {"apache-" + name.replace(".", "-")} for name in PROVIDERS},
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def distributions_of(module: str, installed: Mapping[str, list[str]]) -> set[str]:
    """Return the distributions any of which provides a module; none for Python's and our own.

    :param installed: the distributions of each top-level package
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == PACKAGE.name:
        return set()
    provider = next((name for name in PROVIDERS if f"{module}.".startswith(f"{name}.")), top)
    known = OWNERS.get(provider) or installed.get(top, [top])
    return {canonicalize_name(name) for name in known}


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Return the distributions of each imported module."""
    modules = {module for path in PACKAGE.rglob("*.py") for module in imported_modules(path)}
    installed = packages_distributions()
    return {module: found for module in modules if (found := distributions_of(module, installed))}


def test_each_imported_distribution_is_declared(imported: dict[str, set[str]]) -> None:
    assert sorted(module for module, found in imported.items() if not found & DECLARED) == []


def test_each_declared_distribution_is_imported(imported: dict[str, set[str]]) -> None:
    assert DECLARED - set[str]().union(*imported.values()) == set()
