# SPDX-License-Identifier: Apache-2.0
"""Snippets in the documentation: Dags are parsed, jobs run, and the syntax of all others is checked.

A failure names the page and line, since each snippet keeps its line numbers.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag

from airflow_asyncaction import runner_config
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.settings import OPTIONS, SECTION
from airflow_asyncaction.testing import JobServer

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r"<!-- include: code (\S+\.py) -->")
OTHER_LANGUAGES = {"dockerfile", "nginx", "text"}
CHECKED_PACKAGES = ("airflow.", "airflow_asyncaction.")
"""Packages whose imported names must exist. A page may import modules that only its reader has."""


@dataclass(frozen=True)
class Snippet:
    """Fenced block, or a program that a page includes."""

    path: str
    line: int
    language: str
    text: str

    @property
    def padded(self) -> str:
        """The text with the line numbers that it has in its file."""
        return "\n" * (self.line - 1) + self.text

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def is_dag(self) -> bool:
        dags = r"\bDAG\(|\basync_operation\b|\bload_operations\b"
        return self.language == "python" and re.search(dags, self.text) is not None

    @property
    def is_job(self) -> bool:
        """Whether it is a job in a page. Other tests run the programs that pages include."""
        return self.language == "python" and self.path.endswith(".md") and "with open_job()" in self.text

    def write_to(self, folder: Path) -> Path:
        path = folder / f"{self.path.replace('/', '.')}.{self.line}.py"
        path.write_text(self.padded)
        return path


def find_snippets() -> Iterator[Snippet]:
    for page in PAGES:
        path, text = str(page.relative_to(ROOT)), page.read_text()
        for block in FENCE.finditer(text):
            indent, language, code = block.groups()
            line = text.count("\n", 0, block.start()) + 2
            yield Snippet(path, line, language, re.sub(rf"^{indent}", "", code, flags=re.MULTILINE))
        for included in INCLUDE.findall(text):
            yield Snippet(included, 1, "python", (ROOT / included).read_text())


SNIPPETS = list(find_snippets())


def in_language(*languages: str) -> pytest.MarkDecorator:
    found = [snippet for snippet in SNIPPETS if snippet.language in languages]
    return pytest.mark.parametrize("snippet", found, ids=str)


def test_each_language_is_checked() -> None:
    checked = {"bash", "ini", "json", "python", "sh", "yaml"}
    assert [
        f"{snippet}: {snippet.language or 'no language'}"
        for snippet in SNIPPETS
        if snippet.language not in checked | OTHER_LANGUAGES
    ] == []
    assert {snippet.language for snippet in SNIPPETS} >= checked - {"bash"}


@in_language("python")
def test_python_compiles_and_its_imports_exist(snippet: Snippet) -> None:
    compile(snippet.padded, snippet.path, "exec")
    missing = []
    for node in ast.walk(ast.parse(snippet.padded)):
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith(CHECKED_PACKAGES):
            continue
        module = importlib.import_module(str(node.module))
        missing += [
            f"{snippet.path}:{node.lineno}: {node.module} has no {alias.name}"
            for alias in node.names
            if not hasattr(module, alias.name)
        ]
    assert missing == []


def test_python_is_complete(tmp_path: Path) -> None:
    names = {
        snippet.write_to(tmp_path).name: snippet.path for snippet in SNIPPETS if snippet.language == "python"
    }
    command = ["ruff", "check", "--isolated", "--no-cache", "--output-format=concise", "--select=F", "."]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, re.sub(
        r"^[^:\n]+", lambda name: names.get(name[0], name[0]), done.stdout, flags=re.MULTILINE
    )


def test_dags_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "example_dags" / "operations.json", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    files = {str(snippet.write_to(tmp_path)): str(snippet) for snippet in SNIPPETS if snippet.is_dag}
    assert len(files) >= 10
    for file, name in files.items():  # each by itself: pages may use the same id
        bag = DagBag(file, safe_mode=True, load_op_links=False)
        assert bag.import_errors == {}, name
        assert bag.dags, f"{name} has no Dag"


@pytest.mark.parametrize("snippet", [snippet for snippet in SNIPPETS if snippet.is_job], ids=str)
def test_jobs_in_python_report(snippet: Snippet, server: JobServer, tmp_path: Path) -> None:
    job = server.new_job(arguments={"table": "orders"})
    job.add_file("orders", "orders.csv", b"1,pear\n")
    environ = {**os.environ, **job.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, str(snippet.write_to(tmp_path))], cwd=tmp_path, env=environ, check=True, timeout=60
    )
    assert job.action.state is State.SUCCESS


@in_language("sh", "bash")
def test_shell_is_parsed(snippet: Snippet) -> None:
    done = subprocess.run(
        [snippet.language, "-n"], input=snippet.padded, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{snippet.path}: {done.stderr}"


def test_airflow_commands_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    from airflow.cli.cli_parser import get_parser

    parser, invalid = get_parser(), []
    for snippet in SNIPPETS:
        if snippet.language not in ("sh", "bash"):
            continue
        for number, line in enumerate(snippet.text.splitlines(), snippet.line):
            if not line.startswith("airflow "):
                continue
            try:
                parser.parse_args(shlex.split(line, comments=True)[1:])
            except SystemExit:
                invalid.append(f"{snippet.path}:{number}: {capsys.readouterr().err}")
    assert invalid == []


@in_language("yaml", "json")
def test_yaml_and_json_are_parsed(snippet: Snippet) -> None:
    value = yaml.safe_load(snippet.padded) if snippet.language == "yaml" else json.loads(snippet.padded)
    if isinstance(value, list):  # [asyncaction] runners
        assert runner_config.parse(json.dumps(value))


@in_language("ini")
def test_ini_has_options_that_exist(snippet: Snippet) -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(snippet.padded, source=snippet.path)
    assert config.sections()
    if config.has_section(SECTION):
        assert set(config.options(SECTION)) <= {option.name for option in OPTIONS}


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = [
        f"{page.relative_to(ROOT)}: make {target}"
        for page in PAGES
        for target in re.findall(r"(?:^ *|`)make ([a-z][\w./-]*)", page.read_text(), re.MULTILINE)
        if target not in targets
    ]
    assert unknown == []
