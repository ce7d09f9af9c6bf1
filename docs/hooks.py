# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: include the protocol, the changelog, options, metrics, programs and screenshots in pages."""

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

# A checkout shows no includes, so a link to the included file stands before each of them.
_INCLUDE = re.compile(r"^( *)(?:\S.* )?<!-- include: (.+?) -->$", re.MULTILINE)
_HEAD = re.compile(r"(#!.*\n)?\S+ SPDX-.*\n(\"\"\".*\"\"\"\n\nfrom __future__ import annotations\n)?")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")

# Files of the project that are pages of the site. A link to any other file fails the build.
_LINKS = {
    "CHANGELOG.md": "changelog.md",
    "PROTOCOL.md": "protocol.md",
}
# Files that pages link to, and that are copied to the site.
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
    "action.png": "One action while it runs",
    "dark.png": "An action in Airflow's dark theme",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the copied files to the site."""
    from mkdocs.structure.files import File

    for path in _COPIED:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the text of a page with its includes."""
    return expand_includes(markdown)


def expand_includes(markdown: str) -> str:
    """Replace ``<!-- include: NAME -->`` lines with the text of that name. Redirect links to copied files.

    :raises KeyError: unknown name
    """
    return _INCLUDE.sub(lambda match: indent(_source(match[2]), match[1]), _OUT.sub("](", markdown))


def _source(name: str) -> str:
    kind, _, path = name.partition(" ")
    return _code(path) if kind == "code" else _SOURCES[name]()


def option_text(option: Option) -> str:
    """Return the section of an option in the configuration reference."""
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
    """Import the metrics with a temporary AIRFLOW_HOME, where Airflow may create its configuration file."""
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
    """Return a program as a code block, without its licence line and module docstring."""
    code = _HEAD.sub("", (ROOT / path).read_text(), count=1)
    return f"```{_LANGUAGES[Path(path).suffix]}\n{code.strip()}\n```"


def _included(path: str) -> str:
    """Return the text of a project file with the links of the site."""
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
