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
"""Maximum number of secrets that the server stores for an action."""
MAX_CHARS = 64 * 1024
"""Maximum number of characters of these secrets together."""

_LINE_CHARS = 16
"""Shorter lines of a multi-line secret are too common to mask."""
_PART_CHARS = 5
_TREE_LEVELS = 3
_LONGEST_IN_TREE = 64
"""Longer secrets are not in the regular expression: it might compare all of them at each position."""
_CUT = re.compile(r" \[(?:cut: the line has \d+ bytes|\d+ bytes truncated)\]\Z")


class Masker:
    """Replaces secrets with ``***``.

    Purpose: mask in the reports of a job what Airflow masks in the log of its task.

    How it works: one regular expression contains all short secrets, branched by their first characters, so
    that a text is scanned once. Long secrets are searched for one by one, in linear time. If several secrets
    match at the same position, the longest is replaced. Secrets are also found as JSON and URLs escape them.
    A multi-line secret is also found by each of its lines that has 16 characters or more and no spaces.

    What it does not do: find secrets in other encodings (base64, hex), or parts of secrets other than such
    lines and the beginning of a secret where a log line was cut.

    :param values: the secrets. The caller must exclude those that are too short or too common
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
        """Mask a text."""
        if len(text) > _LONGEST_IN_TREE:
            for word in self._long:
                text = text.replace(word, MASK)
        return text if self._regex is None else self._regex.sub(MASK, text)

    def line(self, text: str) -> str:
        """Mask a log line, including the beginning of a secret at the end of a line that was cut."""
        text = self.text(text)
        cut = _CUT.search(text) if self.values else None
        return text if cut is None else self._without_part(text[: cut.start()]) + cut[0]

    def json(self, value: Any) -> Any:
        """Mask a JSON value: its strings and its keys."""
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
            while key in masked:  # two keys that only differ in secrets
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
    """Return as many values as the server stores, shortest first."""
    kept, chars = [], 0
    for value in sorted(values, key=lambda value: (len(value), value))[:MAX_VALUES]:
        chars += len(value)
        if chars > MAX_CHARS:
            break
        kept.append(value)
    return kept


def found_in(text: str, values: Iterable[str]) -> Sequence[str]:
    """Return the values that occur in a text, in any escaping."""
    return [value for value in values if any(word in text for word in _spellings(value))]


def _spellings(value: str) -> Iterator[str]:
    yield value
    if value.strip() != value and len(value.strip()) >= _PART_CHARS:
        yield value.strip()  # for instance the content of a file that ends with a newline
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield json.dumps(value)[1:-1].replace("/", "\\/")  # like PHP
    yield repr(value)[1:-1]
    with suppress(UnicodeEncodeError):  # a URL cannot contain a lone surrogate
        yield from (quote(value, safe=""), quote(value), quote_plus(value))
    lines = [line.strip() for line in value.split("\n")]
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _LINE_CHARS and " " not in line)


def _alternation(words: Sequence[str], levels: int = _TREE_LEVELS) -> str:
    """Return a pattern that matches the longest of sorted, distinct words.

    :param levels: number of levels that branch by the next character before the words are listed
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
