# SPDX-License-Identifier: Apache-2.0
"""Wheel and source distribution: contain what users need, and nothing else."""

from __future__ import annotations

import configparser
import json
import posixpath
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from airflow_asyncaction import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Return the top of the wheel, built as any installer builds it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.Path(path)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the source distribution by their paths below its top folder."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.tar.gz")
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                found[member.name.partition("/")[2]] = content.read()
    return found


def files_in(folder: zipfile.Path) -> set[str]:
    return {name for name in folder.root.namelist() if not name.endswith("/")}


def test_the_wheel_holds_the_package_alone(wheel: zipfile.Path) -> None:
    info = f"airflow_asyncaction-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in files_in(wheel)} == {"airflow_asyncaction", info}


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.Path) -> None:
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "airflow_asyncaction").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there <= files_in(wheel)


def test_the_wheel_holds_what_is_no_module(wheel: zipfile.Path) -> None:
    store = "airflow_asyncaction/store"
    assert files_in(wheel) >= {
        "airflow_asyncaction/py.typed",
        f"{store}/alembic.ini",
        f"{store}/migrations/env.py",
        f"{store}/migrations/script.py.mako",
        f"{store}/migrations/versions/0001_actions_and_reports.py",
        f"airflow_asyncaction-{__version__}.dist-info/licenses/LICENSE",
    }


@pytest.mark.parametrize("name", ["signing.json", "files.json", "paths.json", "ends.json"])
def test_both_distributions_hold_the_vectors(wheel: zipfile.Path, sdist: dict[str, bytes], name: str) -> None:
    path = f"airflow_asyncaction/protocol/vectors/{name}"
    content = (ROOT / path).read_bytes()
    assert (wheel / path).read_bytes() == content
    assert sdist[path] == content
    assert json.loads(content)


def test_what_is_read_in_the_source_distribution_links_to_what_is_there(sdist: dict[str, bytes]) -> None:
    folders = {posixpath.dirname(path) for path in sdist}
    pages = [path for path in sdist if path.endswith(".md")]
    assert {"PROTOCOL.md", "README.md", "docs/index.md"} <= set(pages)
    broken = []
    for page in pages:
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", sdist[page].decode()):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            if target not in sdist and target not in folders:
                broken.append(f"{page}: {link}")
    assert broken == []


@pytest.mark.parametrize(("version", "is_taken"), [("3.2.1", False), ("3.3.2", True), ("3.4.0b2", False)])
def test_the_wheel_is_for_airflow_3_3(wheel: zipfile.Path, version: str, is_taken: bool) -> None:
    metadata = (wheel / f"airflow_asyncaction-{__version__}.dist-info/METADATA").read_text()
    wanted = [Requirement(line) for line in Parser().parsestr(metadata).get_all("Requires-Dist", [])]
    (airflow,) = [each for each in wanted if each.name == "apache-airflow"]
    assert airflow.specifier.contains(version, prereleases=True) is is_taken


def test_airflow_finds_provider_and_plugin_by_the_entry_points(wheel: zipfile.Path) -> None:
    parser = configparser.ConfigParser()
    parser.read_string((wheel / f"airflow_asyncaction-{__version__}.dist-info/entry_points.txt").read_text())
    entry_points = {section: dict(parser[section]) for section in parser.sections()}
    assert entry_points == {
        "airflow.plugins": {"asyncaction": "airflow_asyncaction.plugins.asyncaction:AsyncActionPlugin"},
        "apache_airflow_provider": {
            "provider_info": "airflow_asyncaction.get_provider_info:get_provider_info"
        },
    }
    for target in (target for section in entry_points.values() for target in section.values()):
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))
