# SPDX-License-Identifier: Apache-2.0
"""Task API: messages survive serialization, and results become values that an XCom can hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from airflow.sdk.serde import deserialize, serialize
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import Completion, State, StopReason, Verb
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.reports import MAX_TAIL_CHARS, TAIL_LINES, Limits, LogLine, cut_tail
from airflow_asyncaction.protocol.runner_messages import RunnerMessage, message_from_json, message_to_json
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import ActionSpec, TaskView

RESERVED = ("__classname__", "__version__", "__data__", "__type", "__var", "__id__", "__source__")
MESSAGE_FIELDS = ("kind", "job", "code", "signal", "reason", "message", "tail")

# Neither NUL, which PostgreSQL does not store, nor lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
odd_texts = texts | st.sampled_from([*RESERVED, "\0", "a\0b", "\\u0000", "\\\0"])
odd_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | odd_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=8,
)
json_texts = values.map(strict_json.dumps)
durations = st.timedeltas(timedelta(microseconds=1), timedelta(days=10_000))
lines = st.builds(
    LogLine,
    message=texts,
    level=st.sampled_from(["INFO", "ERROR", "MINE"]),
    time_ms=st.none() | st.integers(0, 10**14),
    stream=st.none() | st.sampled_from(["stdout", "stderr"]),
)
names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=250)
calls = st.none() | st.tuples(names, names)


def _spec(call: tuple[str, str] | None, **fields: Any) -> ActionSpec:
    service_name, method = call or (None, None)
    return ActionSpec(service_name=service_name, method=method, **fields)


specs = st.builds(
    _spec,
    call=calls,
    orchestrator=st.none() | names,
    type=texts,
    runner=texts,
    arguments=json_texts,
    completion=st.sampled_from(Completion),
    require_report=st.booleans(),
    start_timeout=st.none() | durations,
    heartbeat_timeout=st.none() | durations,
    accept_v1=st.booleans(),
    max_log_lines=st.integers(0, 10**6),
)
views = st.builds(
    TaskView,
    state=st.sampled_from(State),
    is_done=st.booleans(),
    verb=st.none() | st.sampled_from(Verb),
    stop_reason=st.none() | st.sampled_from(StopReason),
    results=st.none() | json_texts,
    error_name=st.none() | texts,
    error_message=st.none() | texts,
    status_details=st.none() | json_texts,
    logs=st.lists(lines, max_size=3).map(tuple),
    first_line=st.integers(1, 10**9),
    has_more_logs=st.booleans(),
)
words = st.one_of(
    st.builds(Launched, st.dictionaries(texts, values, max_size=3)),
    st.builds(
        Exit,
        code=st.none() | st.integers(0, 255),
        signal=st.none() | texts,
        reason=st.none() | texts,
        message=st.none() | texts,
        tail=st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(Stop, st.sampled_from(StopReason)),
    st.just(Abandon()),
)


def sent(fields: Any) -> Any:
    return strict_json.loads(json.dumps(fields))


def refused_field(read: Callable[[dict[str, Any]], object], fields: dict[str, Any]) -> str | None:
    try:
        read(fields)
    except MalformedRequest as error:
        return error.field
    return None


@given(spec=specs)
def test_specs_survive_serialization(spec: ActionSpec) -> None:
    assert ActionSpec.from_json(sent(spec.to_json())) == spec


@given(view=views)
def test_task_views_survive_serialization(view: TaskView) -> None:
    assert TaskView.from_json(sent(view.to_json())) == view


@given(word=words)
def test_runner_messages_survive_serialization(word: RunnerMessage) -> None:
    assert message_from_json(sent(message_to_json(word))) == word


@pytest.mark.parametrize("letter", ["x", "\0", "\u00e9", "\u65e5", "\U0001f600"])
def test_an_exit_with_long_texts_fits_into_a_request(letter: str) -> None:
    said = letter * 10**6
    exit_ = Exit(code=1, reason=said, message=said, tail=[said] * 30)
    arrived = message_from_json(sent(message_to_json(exit_)))
    assert isinstance(arrived, Exit)
    assert len(json.dumps(message_to_json(exit_))) < Limits().body_bytes / 2
    assert (arrived.code, arrived.tail) == (1, (letter * MAX_TAIL_CHARS,))


@given(lines=st.lists(st.integers(0, MAX_TAIL_CHARS).map(lambda size: "x" * size), max_size=30))
def test_long_last_lines_keep_their_end(lines: list[str]) -> None:
    kept = "\n".join(cut_tail(lines))
    assert "\n".join(lines[-TAIL_LINES:])[-MAX_TAIL_CHARS:].removeprefix("\n") == kept.removeprefix("\n")


@given(fields=st.dictionaries(st.sampled_from(sorted(ActionSpec(type="t", runner="r").to_json())), values))
def test_a_wrong_request_is_malformed_and_nothing_else(fields: dict[str, Any]) -> None:
    asked = {**ActionSpec(type="t", runner="r").to_json(), **fields}
    named = {"method"} if "serviceName" in fields else set()  # they must be set together
    assert refused_field(ActionSpec.from_json, asked) in {None, *fields, *named}


@given(
    fields=st.dictionaries(
        st.sampled_from(MESSAGE_FIELDS),
        values | st.sampled_from(["launched", "exit", "stop", "abandon"]),
    )
)
def test_an_invalid_runner_message_is_malformed(fields: dict[str, Any]) -> None:
    assert refused_field(message_from_json, fields) in {None, *MESSAGE_FIELDS}


def fits(value: Any) -> bool:
    """Return whether an XCom can hold a value unchanged, without using the package's own check."""
    if isinstance(value, dict):
        return all(fits(key) and key not in RESERVED for key in value) and all(map(fits, value.values()))
    if isinstance(value, list):
        return all(map(fits, value))
    text = json.dumps(value)
    is_large = isinstance(value, int) and not -(2**63) <= value < 2**64
    return not is_large and "\\u0000" not in text.replace("\\\\", "")


def revived(pushed: Any, value: Any) -> Any:
    """Restore a value from its XCom, in which parts that do not fit are replaced by their JSON text."""
    if isinstance(value, dict | list) and type(pushed) is type(value):
        names: Any = value if isinstance(value, dict) else range(len(value))
        pairs = {name: revived(pushed[name], value[name]) for name in names}
        return pairs if isinstance(value, dict) else list(pairs.values())
    return pushed if fits(value) else strict_json.loads(pushed)


@given(value=odd_values)
@example(2**64 - 1)
@example(2**64)
@example(-(2**63))
@example(-(2**63) - 1)
@example(10**400)
@example([True, {"a\0": 1}, {"a": ["\0", "\\u0000", {"__type": {"b": 2**70}}]}])
def test_results_become_the_xcom_except_for_unsupported_parts(value: Any) -> None:
    pushed = strict_json.xcom_from_text(strict_json.dumps(value))
    assert fits(pushed)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(serialize(pushed))) == pushed
    assert deserialize(serialize(pushed)) == pushed
    assert revived(pushed, value) == value
    assert strict_json.xcom_and_changed(strict_json.dumps(value)) == (
        strict_json.to_xcom(value),
        not fits(value),
    )
    assert (strict_json.to_xcom(value) is value) is fits(value)
    assert strict_json.to_storable(value) is value or not fits(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", ["\udfff"], {"\ud800": 1}])
def test_values_of_other_deployments_are_made_to_fit(value: Any) -> None:
    pushed = json.dumps(strict_json.to_xcom(value), ensure_ascii=False, allow_nan=False)
    assert pushed.encode().decode() == pushed


def test_values_nested_too_deep_become_text() -> None:
    value: Any = "core"
    for _ in range(500):
        value = [value]
    pushed = strict_json.to_xcom(value)
    for _ in range(strict_json.MAX_DEPTH):
        (pushed,) = pushed
    assert json.loads(pushed) == json.loads("[" * 436 + '"core"' + "]" * 436)


@pytest.mark.parametrize("value", [0, False, "", None, [], {}, 0.0])
def test_a_falsy_result_is_the_xcom_too(value: object) -> None:
    result = strict_json.xcom_from_text(strict_json.dumps(value))
    assert (result, type(result)) == (value, type(value))


@given(key=st.sampled_from(RESERVED), value=values, beside=st.dictionaries(texts, values, max_size=2))
def test_a_result_that_airflow_would_build_objects_from_stays_text(
    key: str, value: Any, beside: dict[str, Any]
) -> None:
    hostile = {**beside, key: value}
    text = strict_json.dumps(hostile)
    for nested, pushed in (
        (hostile, text),
        ([hostile], [text]),
        ({"a": [0, {"b": hostile}]}, {"a": [0, {"b": text}]}),
    ):
        assert strict_json.xcom_from_text(strict_json.dumps(nested)) == pushed


def test_reserved_words_outside_keys_change_nothing() -> None:
    assert strict_json.xcom_from_text(JsonText('["__classname__"]')) == ["__classname__"]
