# SPDX-License-Identifier: Apache-2.0
"""Class names are unique in the package: one name has one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import airflow_asyncaction

PACKAGE = Path(airflow_asyncaction.__file__).parent


def public_classes() -> dict[str, list[str]]:
    """Return the modules that define each public class, by its name."""
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(PACKAGE)))
    return found


def test_public_class_names_are_unique() -> None:
    assert {name: paths for name, paths in public_classes().items() if len(paths) > 1} == {}
