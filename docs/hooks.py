# SPDX-License-Identifier: Apache-2.0
"""What MkDocs puts into the pages from elsewhere: protocol, changelog, options, metrics, screenshots."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

from airflow_asyncaction.settings import OPTIONS, SECTION, Option

ROOT = Path(__file__).resolve().parent.parent

# In a checkout a mark shows nothing: before it stands a link to the same, for who reads the page there.
_MARK = re.compile(r"^( *)(?:\S.* )?<!-- put: (.+?) -->$", re.MULTILINE)
_HEAD = re.compile(r"(#!.*\n)?\S+ SPDX-.*\n(\"\"\".*\"\"\"\n\nfrom __future__ import annotations\n)?")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")

# Links of the project's own files as the site has them: what it has not would fail the build.
_LINKS = {
    "CHANGELOG.md": "changelog.md",
    "PROTOCOL.md": "protocol.md",
}
# Files that pages link to and the site has copies of.
_COPIED = (
    "airflow_asyncaction/protocol/vectors/ends.json",
    "airflow_asyncaction/protocol/vectors/files.json",
    "airflow_asyncaction/protocol/vectors/paths.json",
    "airflow_asyncaction/protocol/vectors/signing.json",
    "example_dags/jobs/files.sh",
    "example_dags/jobs/report.mjs",
    "example_dags/jobs/signing.sh",
)
_OUT = re.compile(r"\]\(\.\./(?=(?:" + "|".join(map(re.escape, _COPIED)) + r")\))")
_LANGUAGES = {".mjs": "js", ".py": "python", ".sh": "sh"}
_SCREENSHOTS = {
    "list.png": "The list of actions",
    "action.png": "One action, while it runs",
    "dark.png": "The same, dark",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the copied files to the site."""
    from mkdocs.structure.files import File

    for path in _COPIED:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page's text as it is to be rendered."""
    return filled(markdown)


def filled(markdown: str) -> str:
    """Replace each ``<!-- put: NAME -->`` by what it names, and links to copied files by those to the copies.

    :raises KeyError: it names nothing
    """
    return _MARK.sub(lambda mark: indent(_source(mark[2]), mark[1]), _OUT.sub("](", markdown))


def _source(name: str) -> str:
    kind, _, path = name.partition(" ")
    return _code(path) if kind == "code" else _SOURCES[name]()


def option_text(option: Option) -> str:
    """Return what the reference says of an option."""
    default = f"default `{option.default}`" if option.default else "empty by default"
    parts = [
        f"## {option.name}",
        f"*{option.type}, {default}* · `AIRFLOW__{SECTION.upper()}__{option.name.upper()}`",
        option.description,
    ]
    if option.example:
        parts.append(f"```ini\n[{SECTION}]\n{option.name} = {option.example}\n```")
    return "\n\n".join(parts) + "\n"


def _options() -> str:
    return "\n".join(map(option_text, OPTIONS))


def _metrics() -> str:
    metrics = _load_metrics()
    rows = []
    for metric in metrics:
        names = f"`{metric.name}`"
        if metric.suffix:
            names += f", `{metric.name}.<{metric.suffix}>`"
        tags = ", ".join(f"`{tag}`" for tag in metric.tags)
        rows.append((names, metric.kind.value, tags, metric.description))
    return _table(("metric", "kind", "tags", "meaning"), rows)


def _load_metrics() -> Any:
    """Import the list; Airflow, which that imports, makes a configuration file where it finds none."""
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("AIRFLOW_HOME", home)
        try:
            from airflow_asyncaction.store.metrics import METRICS
        finally:
            if os.environ["AIRFLOW_HOME"] == home:
                del os.environ["AIRFLOW_HOME"]
    return METRICS


def _screenshots() -> str:
    shown = [name for name in _SCREENSHOTS if (ROOT / "docs" / "images" / name).is_file()]
    return "\n\n".join(f"![{_SCREENSHOTS[name]}](images/{name})" for name in shown)


def _code(path: str) -> str:
    """Return a program without its head."""
    code = _HEAD.sub("", (ROOT / path).read_text(), count=1)
    return f"```{_LANGUAGES[Path(path).suffix]}\n{code.strip()}\n```"


def _included(path: str) -> str:
    """Return a file of the project, with its links as the site has them."""
    text = (ROOT / path).read_text()
    return _LINK.sub(lambda link: "](" + _LINKS.get(link[1], link[1]), text)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_SOURCES: Mapping[str, Callable[[], str]] = {
    "CHANGELOG.md": lambda: _included("CHANGELOG.md"),
    "PROTOCOL.md": lambda: _included("PROTOCOL.md"),
    "metrics": _metrics,
    "options": _options,
    "screenshots": _screenshots,
}
