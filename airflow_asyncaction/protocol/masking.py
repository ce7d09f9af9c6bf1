# SPDX-License-Identifier: Apache-2.0
"""Masker: replaces known secrets in texts and JSON values, as Airflow does in its logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
MAX_VALUES = 100
"""How many secrets a server keeps of an action ..."""
MAX_CHARS = 64 * 1024
"""... and how many characters they have together."""

_LINE_CHARS = 16
"""Lines of a secret that are shorter are too common to be masked alone."""
_PART_CHARS = 5
_TREE_LEVELS = 3
_LONGEST_IN_TREE = 64
"""A regular expression may compare each character of a text with as many of a secret."""
_CUT = re.compile(r" \[(?:cut: the line has \d+ bytes|\d+ bytes are cut)\]\Z")


class Masker:
    """Replaces secrets by ``***``.

    Purpose: what Airflow masks in a task's log is masked in what its job reports.

    How it works: one regular expression for all secrets, branched by their first characters, so that a text
    costs one pass; long secrets are searched one by one, at a cost that is linear for any text. Where two
    begin alike, the longer one is replaced. Each secret is also found as JSON and URLs escape it, and one of
    several lines by its lines of 16 characters or more without spaces.

    What it does not do: find a secret in any other encoding (base64, hex), or in parts.

    :param values: the secrets; which values are too short or too common is for the caller to decide
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values = frozenset(value for value in values if value)
        self._words = sorted({word for value in self.values for word in _spellings(value)})
        self._long = sorted(
            (word for word in self._words if len(word) > _LONGEST_IN_TREE), key=len, reverse=True
        )
        short = [word for word in self._words if len(word) <= _LONGEST_IN_TREE]
        self._regex = re.compile(_alternation(short)) if short else None

    def __bool__(self) -> bool:
        return bool(self.values)

    def __repr__(self) -> str:
        return f"<Masker of {len(self.values)} values>"

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        if len(text) > _LONGEST_IN_TREE:
            for word in self._long:
                text = text.replace(word, MASK)
        return text if self._regex is None else self._regex.sub(MASK, text)

    def line(self, text: str) -> str:
        """Return a log line without the secrets, the first part of one at the end of a cut line included."""
        text = self.text(text)
        cut = _CUT.search(text) if self.values else None
        return text if cut is None else self._without_part(text[: cut.start()]) + cut[0]

    def json(self, value: Any) -> Any:
        """Return a JSON value without the secrets, neither in its strings nor in its keys."""
        if not self.values:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.json(each) for each in value]
        if isinstance(value, dict):
            return self._object(value)
        return value

    def _object(self, fields: dict[Any, Any]) -> dict[Any, Any]:
        masked: dict[Any, Any] = {}
        for name, value in fields.items():
            key = self.text(name) if isinstance(name, str) else name
            while key in masked:  # two keys that differ in secrets alone
                key += "*"
            masked[key] = self.json(value)
        return masked

    def _without_part(self, text: str) -> str:
        for word in self._words:
            start = text.rfind(word[:_PART_CHARS])
            if start >= 0 and word.startswith(text[start:]):
                return text[:start] + MASK
        return text


NO_SECRETS = Masker()


def bounded(values: Iterable[str]) -> Sequence[str]:
    """Return as many values as a server keeps, the shortest first."""
    kept, chars = [], 0
    for value in sorted(values, key=lambda value: (len(value), value))[:MAX_VALUES]:
        chars += len(value)
        if chars > MAX_CHARS:
            break
        kept.append(value)
    return kept


def found_in(text: str, values: Iterable[str]) -> Sequence[str]:
    """Return those values that a text has, in any spelling."""
    return [value for value in values if any(word in text for word in _spellings(value))]


def _spellings(value: str) -> Iterator[str]:
    yield value
    if value.strip() != value and len(value.strip()) >= _PART_CHARS:
        yield value.strip()  # of a file, say, that ends with a newline
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield json.dumps(value)[1:-1].replace("/", "\\/")  # as PHP does
    yield repr(value)[1:-1]
    with suppress(UnicodeEncodeError):  # a lone surrogate is in no URL
        yield from (quote(value, safe=""), quote(value), quote_plus(value))
    lines = [line.strip() for line in value.split("\n")]
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _LINE_CHARS and " " not in line)


def _alternation(words: Sequence[str], levels: int = _TREE_LEVELS) -> str:
    """Return a pattern of sorted, distinct words that matches the longest one.

    :param levels: how often it branches by the next character before it lists the words
    """
    if len(words) == 1:
        return re.escape(words[0])
    if levels == 0:
        longest_first = sorted(words, key=len, reverse=True)
        return "(?:" + "|".join(map(re.escape, longest_first)) + ")"
    first, last = words[0], words[-1]
    size = next((at for at in range(len(first)) if first[at] != last[at]), len(first))
    rests = [word[size:] for word in words if len(word) > size]
    branches = [
        _alternation(list(group), levels - 1) for _, group in groupby(rests, key=lambda rest: rest[0])
    ]
    ends_here = "?" if len(rests) < len(words) else ""
    return f"{re.escape(first[:size])}(?:{'|'.join(branches)}){ends_here}"
