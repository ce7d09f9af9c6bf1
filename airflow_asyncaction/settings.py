# SPDX-License-Identifier: Apache-2.0
"""The ``[asyncaction]`` section of Airflow's configuration: its options and their values.

The list of options is data: the provider's ``config`` section and the reference are generated from it.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES, MAX_NAME_CHARS, Limits, is_name

SECTION = "asyncaction"

_DEFAULT_LIMITS = Limits()
_STORE_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")


@dataclass(frozen=True)
class Option:
    """One option as Airflow's provider configuration describes it.

    :param type: ``string``, ``integer``, ``float`` or ``boolean``
    :param default: as written in airflow.cfg
    """

    name: str
    type: str
    default: str
    description: str
    example: str | None = None


OPTIONS = (
    Option("url", "string", "/async", "Path at which the API server serves the job routes."),
    Option(
        "base_url",
        "string",
        "",
        "Absolute URL at which jobs reach the job routes, of a gateway or of the API server. If empty, it is"
        " derived from [core] execution_api_server_url, or else from [api] base_url.",
        "http://airflow-api.airflow.svc:8080/async",
    ),
    Option(
        "task_url",
        "string",
        "",
        "Absolute URL at which workers and triggerers reach the API server. If empty, they use that of jobs."
        " Set it if base_url is the URL of a gateway.",
        "http://airflow-api.airflow.svc:8080/async",
    ),
    Option(
        "test_host",
        "string",
        "",
        "Host name or IP address at which pods reach this machine during dag.test() and 'airflow dags test'."
        " The task then serves the job routes on all network interfaces. If empty, it serves them on"
        " 127.0.0.1 only.",
        "172.18.0.1",
    ),
    Option(
        "orchestrator",
        "string",
        "airflow",
        "Name of this deployment, passed to jobs as JOB_ORCHESTRATOR. A webda job needs the name of the"
        " AsyncJobService in its application instead: operators and runners can override it.",
        "AsyncService",
    ),
    Option(
        "max_clock_skew",
        "float",
        "300",
        "Maximum difference between a job's clock and the API server's, in seconds. Reports with a larger"
        " difference are refused.",
    ),
    Option(
        "accept_v1",
        "boolean",
        "True",
        "Whether v1 signatures are accepted, as existing webda jobs send them. They cover the time only.",
    ),
    Option(
        "max_body_bytes",
        "integer",
        str(_DEFAULT_LIMITS.body_bytes),
        "Maximum size of a request body from a job or a task, in bytes; at most 64 MiB.",
    ),
    Option(
        "max_report_log_lines",
        "integer",
        str(_DEFAULT_LIMITS.report_log_lines),
        "Maximum log lines per report.",
    ),
    Option(
        "max_line_bytes",
        "integer",
        str(_DEFAULT_LIMITS.line_bytes),
        "Maximum length of a log line, in bytes. Longer lines are truncated and marked.",
    ),
    Option(
        "max_log_lines",
        "integer",
        str(_DEFAULT_LIMITS.max_log_lines),
        "Number of log lines kept per action. The oldest are dropped and counted. Operators can override it.",
    ),
    Option(
        "max_log_bytes",
        "integer",
        str(_DEFAULT_LIMITS.max_log_bytes),
        "Size of the log lines kept per action, in bytes, as the database stores them (JSON in ASCII). The"
        " oldest are dropped and counted.",
    ),
    Option(
        "max_requests_per_second",
        "float",
        "20",
        "Rate at which one API server process accepts signed requests from the job of an action, and likewise"
        " from its task, in requests per second. Bursts may be ten times as large. Requests beyond that are"
        " answered with 429. Each user (token or session) is served at the same rate, but requests wait: a"
        " launch counts as four, and a poll that finds nothing new as a quarter. 0: no limit.",
    ),
    Option(
        "max_bytes_per_second",
        "float",
        str(1024 * 1024),
        "Rate at which one API server process accepts the bodies of signed requests from a job, and likewise"
        " from its task, in bytes per second. Bursts may be ten times as large. Requests beyond that are"
        " answered with 429. 0: no limit.",
    ),
    Option(
        "poll_interval",
        "float",
        "2",
        "Shortest time between two requests of a waiting task for its action, in seconds, for log lines, STOP"
        " and expired timeouts. While nothing changes, a request waits at the API server for up to 14 seconds"
        " (not if this is less than 1). A task notices the end of a local job without a request.",
    ),
    Option(
        "defer_after",
        "float",
        "10",
        "How long a worker watches the job of a deferrable task before it defers the task, in seconds. Jobs"
        " that end earlier need no trigger.",
    ),
    Option(
        "runners",
        "string",
        "",
        "Runners for operators that name none: a JSON list, or the path of a YAML or JSON file. The first"
        " runner whose 'actions' match the action's type launches the action.",
        '[{"name": "etl", "kind": "local", "actions": ["etl.*"], "command": ["etl", "{{ action.type }}"]}]',
    ),
    Option(
        "fallback_on_first",
        "boolean",
        "False",
        "Whether the first runner handles unmatched action types. Otherwise, such actions end with the error"
        " NoRunner.",
    ),
    Option(
        "reap_after",
        "float",
        "120",
        "How long an action must be unwatched before the API server ends it, in seconds. An action is"
        " unwatched if its task instance has ended or is gone, and no next try is going to adopt its job. 0:"
        " never; run 'airflow asyncaction reap' instead.",
    ),
    Option(
        "live_pod_logs",
        "integer",
        "100",
        "Maximum number of containers whose logs one triggerer follows at a time while tasks are deferred."
        " The logs of other containers are read when they end.",
    ),
    Option(
        "file_stores",
        "string",
        "",
        "Where the contents of files are stored: a JSON object of names and URLs that ObjectStoragePath"
        ' accepts. Jobs know one store, as "default": the one with that name, or else the first. If empty,'
        " contents are stored in a folder in AIRFLOW_HOME.",
        '{"default": "file:///var/lib/asyncaction", "lake": "s3://aws_default@bucket/prefix"}',
    ),
    Option(
        "file_url_valid_for",
        "float",
        "3600",
        "How long a job can use the URL of a file's content after it has received it, in seconds.",
    ),
    Option("max_file_bytes", "integer", str(5 * 1024**3), "Maximum size of a file, in bytes."),
    Option(
        "max_files", "integer", "10000", "Maximum number of files per action, inputs and outputs together."
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The section's values."""

    url: str
    test_host: str
    orchestrator: str
    max_clock_skew: timedelta
    accept_v1: bool
    limits: Limits
    max_requests_per_second: float
    max_bytes_per_second: float
    poll_interval: timedelta
    defer_after: timedelta
    runners: str
    fallback_on_first: bool
    reap_after: timedelta
    live_pod_logs: int
    file_stores: Mapping[str, str]
    file_url_valid_for: timedelta
    max_file_bytes: int
    max_files: int


@cache
def load() -> Settings:
    """Read the section once per process.

    :raises ValueError: an option has an invalid value
    """
    values = {option.name: _read(option) for option in OPTIONS}
    url = "/" + str(values["url"]).strip("/")
    if url == "/":
        raise ValueError(f"[{SECTION}] url must be a path below the root, such as /async")
    limits = Limits(
        body_bytes=_at_most("max_body_bytes", values["max_body_bytes"], LARGEST_BODY_BYTES),
        report_log_lines=values["max_report_log_lines"],
        line_bytes=values["max_line_bytes"],
        max_log_lines=values["max_log_lines"],
        max_log_bytes=values["max_log_bytes"],
    )
    return Settings(
        url=url,
        test_host=_host("test_host", values["test_host"]),
        orchestrator=_name("orchestrator", values["orchestrator"]),
        max_clock_skew=timedelta(seconds=values["max_clock_skew"]),
        accept_v1=values["accept_v1"],
        limits=limits,
        max_requests_per_second=values["max_requests_per_second"],
        max_bytes_per_second=values["max_bytes_per_second"],
        poll_interval=timedelta(seconds=_above_zero("poll_interval", values["poll_interval"])),
        defer_after=timedelta(seconds=values["defer_after"]),
        runners=values["runners"],
        fallback_on_first=values["fallback_on_first"],
        reap_after=timedelta(seconds=values["reap_after"]),
        live_pod_logs=values["live_pod_logs"],
        file_stores=_file_stores(values["file_stores"]),
        file_url_valid_for=timedelta(seconds=values["file_url_valid_for"]),
        max_file_bytes=values["max_file_bytes"],
        max_files=values["max_files"],
    )


def _host(option: str, value: str) -> str:
    if re.search(r"[/\s@?#]", value) or (":" in value and not _is_ipv6(value)):
        raise ValueError(f"[{SECTION}] {option} is {value!r}: it must be only a host name or an IP address")
    return value


def _is_ipv6(value: str) -> bool:
    try:
        return ipaddress.ip_address(value).version == 6
    except ValueError:
        return False


def resume_delay() -> timedelta:
    """Return how long after a task was deferred it may be resumed.

    Not an option: it depends on how long a task's supervisor may take to notice that its process has ended.
    """
    from airflow.configuration import conf

    return timedelta(seconds=conf.getfloat("workers", "min_heartbeat_interval", fallback=5) + 5)


def provider_config() -> dict[str, Any]:
    """Return the ``config`` section of the provider's info."""
    options = {
        option.name: {
            "description": option.description,
            "version_added": "0.1.0",
            "type": option.type,
            "example": option.example,
            "default": option.default,
        }
        for option in OPTIONS
    }
    return {SECTION: {"description": "Options of airflow-asyncaction.", "options": options}}


def _read(option: Option) -> Any:
    from airflow.configuration import conf

    match option.type:
        case "integer":
            return _at_least_zero(option, conf.getint(SECTION, option.name, fallback=int(option.default)))
        case "float":
            return _at_least_zero(option, conf.getfloat(SECTION, option.name, fallback=float(option.default)))
        case "boolean":
            return conf.getboolean(SECTION, option.name, fallback=option.default == "True")
        case _:
            return conf.get(SECTION, option.name, fallback=option.default)


def _file_stores(text: str) -> Mapping[str, str]:
    """Return the file stores' URLs by name."""
    if not text.strip():
        from airflow.configuration import AIRFLOW_HOME

        return {"default": (Path(AIRFLOW_HOME) / "asyncaction").absolute().as_uri()}
    message = f"[{SECTION}] file_stores must be a JSON object of names and URLs"
    try:
        stores = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{message}: {error}") from None
    if not isinstance(stores, dict) or not stores:
        raise ValueError(message)
    for name, url in stores.items():
        if not _STORE_NAME.fullmatch(name):
            raise ValueError(f"{message}: {name!r} is not a valid name: use up to 50 of A-Z a-z 0-9 _ -")
        if not isinstance(url, str) or not re.match(r"[a-z][a-z0-9+.-]*://.|file:///", url):
            raise ValueError(
                f"{message}: {url!r} of {name} is not a URL such as file:///folder or s3://connection@bucket/prefix"
            )
        if url.startswith("file:") and not url.startswith("file:///"):
            raise ValueError(f"{message}: the path in {url!r} of {name} must be absolute: file:///folder")
    return stores


def _name(option: str, value: str) -> str:
    if not is_name(value):
        raise ValueError(
            f"[{SECTION}] {option} is {value!r}: it must be 1 to {MAX_NAME_CHARS} printable characters"
        )
    return value


def _above_zero(name: str, value: float) -> float:
    if value == 0:
        raise ValueError(f"[{SECTION}] {name} is 0: it must be greater than 0")
    return value


def _at_most(name: str, value: int, most: int) -> int:
    if value > most:
        raise ValueError(
            f"[{SECTION}] {name} is {value}: it must be at most {most}, the largest body that clients send"
        )
    return value


def _at_least_zero(option: Option, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"[{SECTION}] {option.name} is {value}: it must be 0 or more")
    return value
