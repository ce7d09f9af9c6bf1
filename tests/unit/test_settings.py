# SPDX-License-Identifier: Apache-2.0
"""The ``[asyncaction]`` section: valid and invalid values, and the provider's ``config`` section."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import timedelta

import jsonschema
import pytest

from airflow_asyncaction import route_urls, settings
from airflow_asyncaction.get_provider_info import get_provider_info
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES, Limits

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Return a function that sets options of ``[asyncaction]``. Initially, none are set."""
    for option in settings.OPTIONS:
        monkeypatch.delenv(f"AIRFLOW__ASYNCACTION__{option.name.upper()}", raising=False)

    def set_options(section: str = "asyncaction", **values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"AIRFLOW__{section.upper()}__{name.upper()}", value)

    settings.load.cache_clear()
    yield set_options
    settings.load.cache_clear()


def test_what_is_not_configured_has_its_default(configure: Configure) -> None:
    configure()
    options = settings.load()
    assert options.url == "/async"
    assert options.orchestrator == "airflow"
    assert options.max_clock_skew == timedelta(minutes=5)
    assert options.accept_v1 is True
    assert options.limits == Limits()
    assert options.poll_interval == timedelta(seconds=2)


def test_what_is_configured_is_read(configure: Configure) -> None:
    configure(
        url="hooks/jobs/",
        orchestrator="prod",
        max_clock_skew="1.5",
        accept_v1="false",
        max_body_bytes="10",
        max_report_log_lines="20",
        max_line_bytes="30",
        max_log_lines="40",
        max_requests_per_second="0",
        poll_interval="0.5",
    )
    options = settings.load()
    assert (options.url, options.orchestrator) == ("/hooks/jobs", "prod")
    assert (options.max_clock_skew, options.accept_v1) == (timedelta(seconds=1.5), False)
    assert options.limits == Limits(body_bytes=10, report_log_lines=20, line_bytes=30, max_log_lines=40)
    assert (options.max_requests_per_second, options.poll_interval) == (0, timedelta(seconds=0.5))


def test_a_request_may_be_no_larger_than_clients_send(configure: Configure) -> None:
    configure(max_body_bytes=str(LARGEST_BODY_BYTES))
    assert settings.load().limits.body_bytes == LARGEST_BODY_BYTES
    settings.load.cache_clear()
    configure(max_body_bytes=str(LARGEST_BODY_BYTES + 1))
    with pytest.raises(ValueError, match="max_body_bytes is 67108865: it must be at most 67108864"):
        settings.load()


def test_the_section_is_read_once(configure: Configure) -> None:
    configure(orchestrator="one")
    first = settings.load()
    configure(orchestrator="two")
    assert settings.load() is first


@pytest.mark.parametrize("name", [option.name for option in settings.OPTIONS if option.type != "string"])
@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf", "1,5", "0x10"])
def test_a_value_that_makes_no_sense_is_named(configure: Configure, name: str, value: str) -> None:
    configure(**{name: value})
    with pytest.raises(Exception, match=name) as raised:
        settings.load()
    assert "asyncaction" in str(raised.value)


def test_polling_always_pauses(configure: Configure) -> None:
    configure(poll_interval="0")
    with pytest.raises(ValueError, match=r"\[asyncaction\] poll_interval is 0"):
        settings.load()


@pytest.mark.parametrize("value", ["/", "", "//"])
def test_the_root_is_no_path_for_the_routes(configure: Configure, value: str) -> None:
    configure(url=value)
    with pytest.raises(ValueError, match=r"\[asyncaction\] url must be a path"):
        settings.load()


@pytest.mark.parametrize(
    ("base_url", "execution_api", "api_base_url", "expected"),
    [
        ("http://own:1/x/async/", "http://e/execution", "http://b", "http://own:1/x/async"),
        ("", "http://e:2/execution/", "http://b", "http://e:2/async"),
        ("", "http://e:2/af/execution", "", "http://e:2/af/async"),
        ("", "", "https://b/af/", "https://b/af/async"),
        ("", "", "/af", "http://localhost:8080/af/async"),
        ("", "", "", "http://localhost:8080/async"),
    ],
)
def test_jobs_reach_the_routes_beside_the_execution_api(
    configure: Configure, base_url: str, execution_api: str, api_base_url: str, expected: str
) -> None:
    configure(base_url=base_url)
    configure("core", execution_api_server_url=execution_api)
    configure("api", base_url=api_base_url)
    assert route_urls.configured_hook_url() == expected


@pytest.mark.parametrize(
    ("task_url", "base_url", "expected"),
    [
        ("http://api:8080/async/", "http://gateway/async", "http://api:8080/async"),
        ("", "http://gateway/async", "http://gateway/async"),
        ("", "", "http://e/async"),
    ],
)
def test_tasks_reach_the_api_server_even_if_jobs_reach_a_gateway(
    configure: Configure, task_url: str, base_url: str, expected: str
) -> None:
    configure(task_url=task_url, base_url=base_url)
    configure("core", execution_api_server_url="http://e/execution")
    assert route_urls.configured_task_url() == expected
    assert route_urls.configured_hook_url() == (base_url or "http://e/async")


def test_a_task_url_that_no_task_could_use_is_refused(configure: Configure) -> None:
    configure(task_url="airflow:8080/async")
    with pytest.raises(ValueError, match=r"\[asyncaction\] task_url"):
        route_urls.configured_task_url()


def test_a_base_url_that_no_job_could_use_is_refused(configure: Configure) -> None:
    configure(base_url="airflow:8080/async")
    with pytest.raises(ValueError, match=r"\[asyncaction\] base_url"):
        route_urls.configured_hook_url()


def test_every_option_is_described_to_airflow(configure: Configure) -> None:
    configure()
    section = settings.provider_config()["asyncaction"]
    described = section["options"]
    assert list(described) == [option.name for option in settings.OPTIONS]
    for option in settings.OPTIONS:
        assert described[option.name]["type"] == option.type
        assert described[option.name]["default"] == option.default
        assert described[option.name]["description"].endswith(".")
    with_limits = {field.name for field in fields(settings.Settings)} - {"limits"}
    assert with_limits - set(described) == set()


def test_described_defaults_are_the_real_ones(configure: Configure) -> None:
    configure()
    implicit = settings.load()
    settings.load.cache_clear()
    configure(**{option.name: option.default for option in settings.OPTIONS})
    assert settings.load() == implicit


def test_airflow_takes_the_provider_info() -> None:
    schema = importlib.resources.files("airflow").joinpath("provider_info.schema.json").read_text("utf-8")
    jsonschema.validate(get_provider_info(), json.loads(schema))
