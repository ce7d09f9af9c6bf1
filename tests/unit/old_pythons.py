# SPDX-License-Identifier: Apache-2.0
"""Static search for features newer than Python 3.8 in source code, and for installed older Pythons.

vermin knows which Python versions introduced modules, functions and arguments of the standard library. It
does not infer types. This module adds methods, by their names, and expressions that only newer Pythons can
evaluate.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from vermin import MOD_MEM_REQS, Config, visit

OLDEST = (3, 8)
_OLD_ELSEWHERE = frozenset({"__name__", "mkdir", "unregister"})  # newer in one module, older in others
_BUILTIN_GENERICS = frozenset({"dict", "frozenset", "list", "set", "tuple", "type"})
_GENERIC_MODULES = ("collections", "concurrent", "contextlib", "os", "queue", "re", "subprocess")


def newer_than(version: tuple[int, int], paths: Iterable[Path]) -> list[str]:
    """Return vermin's findings in sources that need a newer Python than this version of Python 2 or 3."""
    config = Config()
    config.set_verbose(3)
    found = []
    for path in paths:
        source = visit(path.read_text(), config)
        needed = source.minimum_versions()[version[0] - 2]
        if needed is None or needed > version:
            found += [f"{path.name}:{line}" for line in source.output_text().splitlines()]
    return found


def newer_names(paths: Iterable[Path]) -> list[str]:
    """Return attributes whose names the standard library introduced in Python 3.9 or later."""
    trees = {path: ast.parse(path.read_text()) for path in paths}
    own = {name for tree in trees.values() for name in _defined(tree)}
    return [
        f"{path.name}:{node.lineno}: .{node.attr}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in _new_names() - own - _OLD_ELSEWHERE
    ]


def newer_expressions(paths: Iterable[Path]) -> list[str]:
    """Return expressions outside annotations that are errors in Python 3.8: ``A | B``, ``dict[str, int]``."""
    return [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in paths
        for tree in [ast.parse(path.read_text())]
        for node in _evaluated(tree)
        if (isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr))
        or (isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr))
        or (isinstance(node, ast.Subscript) and _dotted(node.value) in _generics(tree))
    ]


def installed(*versions: tuple[int, int]) -> dict[str, str]:
    """Return the interpreters of these versions in PATH and pyenv, and PyPy, which Debian provides."""
    found = {}
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for major, minor in versions:
        name = f"python{major}.{minor}"
        candidates = [shutil.which(name), *map(str, pyenv.glob(f"versions/{major}.{minor}.*/bin/python"))]
        if runs := [path for path in candidates if path and _version_of(path) == (major, minor)]:
            found[name] = runs[0]
    pypy = shutil.which("pypy3")
    if pypy and _version_of(pypy) in versions:
        found["pypy3"] = pypy
    return found


def _version_of(python: str) -> tuple[int, int] | None:
    """Return the version of an interpreter; ``None`` if it does not run, like some of pyenv's shims."""
    code = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    major, minor = done.stdout.split(".")
    return int(major), int(minor)


@cache
def _new_names() -> frozenset[str]:
    new: set[str] = set()
    old: set[str] = set()
    for name, (_, since) in MOD_MEM_REQS(Config()).items():
        (new if since is not None and since > OLDEST else old).add(name.rpartition(".")[2])
    return frozenset(new - old)


def _defined(tree: ast.AST) -> Iterator[str]:
    """Yield the names of methods and attributes that the source itself defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes except annotations, which are not evaluated."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from _evaluated(child)


def _generics(tree: ast.AST) -> set[str]:
    """Return the names of classes that Python 3.8 cannot subscript."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _GENERIC_MODULES
        for alias in node.names
    }
    return {*_BUILTIN_GENERICS, *imported, "os.PathLike", "queue.Queue", "re.Pattern", "subprocess.Popen"}


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
