# SPDX-License-Identifier: Apache-2.0
"""The ``[asyncaction]`` section of Airflow's configuration: its options and their meaning.

The option list is data, so that the provider's ``config`` section and the documentation are made from it.
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
    :param default: as it would stand in airflow.cfg
    """

    name: str
    type: str
    default: str
    description: str
    example: str | None = None


OPTIONS = (
    Option("url", "string", "/async", "Path under which the API server serves the job routes."),
    Option(
        "base_url",
        "string",
        "",
        "Absolute URL of the job routes as jobs and workers reach them. Empty: derived from"
        " [core] execution_api_server_url, else from [api] base_url.",
        "http://airflow-api.airflow.svc:8080/async",
    ),
    Option(
        "test_host",
        "string",
        "",
        "Host name or IP address at which pods reach this machine, for dag.test() and 'airflow dags test':"
        " the task then serves the job routes on all addresses of the machine. Empty: on 127.0.0.1 alone.",
        "172.18.0.1",
    ),
    Option(
        "orchestrator",
        "string",
        "airflow",
        "Name of this deployment, given to jobs as JOB_ORCHESTRATOR. A webda job needs the name of the"
        " AsyncJobService in its application instead: operators and runners may set it too.",
        "AsyncService",
    ),
    Option(
        "max_clock_skew",
        "float",
        "300",
        "How many seconds a job's clock may differ from the API server's before its reports are refused.",
    ),
    Option(
        "accept_v1",
        "boolean",
        "True",
        "Whether v1 signatures (of existing webda jobs) are accepted. They cover the time only.",
    ),
    Option(
        "max_body_bytes",
        "integer",
        str(_DEFAULT_LIMITS.body_bytes),
        "Largest request of a job or a task, in bytes; at most 64 MiB.",
    ),
    Option(
        "max_report_log_lines", "integer", str(_DEFAULT_LIMITS.report_log_lines), "Most log lines a report."
    ),
    Option(
        "max_line_bytes",
        "integer",
        str(_DEFAULT_LIMITS.line_bytes),
        "Longest log line in bytes; what is longer is cut, and marked as cut.",
    ),
    Option(
        "max_log_lines",
        "integer",
        str(_DEFAULT_LIMITS.kept_log_lines),
        "Log lines kept per action; the oldest are dropped and counted. Operators may set log_limit.",
    ),
    Option(
        "max_log_bytes",
        "integer",
        str(_DEFAULT_LIMITS.kept_log_bytes),
        "Bytes of log lines kept per action, as the database stores them (JSON in ASCII); the oldest are"
        " dropped and counted.",
    ),
    Option(
        "max_requests_per_second",
        "float",
        "20",
        "Signed requests a second that one API server process accepts from the job of an action, and as many"
        " from its task, with bursts of ten times as many; more are answered with 429. A user (a token or a"
        " session) is served at the same rate, with launches counted four times and polls that find nothing"
        " new a quarter; requests beyond it wait. 0: no limit.",
    ),
    Option(
        "max_bytes_per_second",
        "float",
        str(1024 * 1024),
        "Bytes a second in the bodies of these requests, with bursts of ten times as many; more are answered"
        " with 429. 0: no limit.",
    ),
    Option(
        "poll_interval",
        "float",
        "2",
        "How often a waiting task polls its action, in seconds, for reported logs, STOP and timeouts."
        " The end of a local job does not wait for it.",
    ),
    Option(
        "defer_after",
        "float",
        "10",
        "How many seconds the worker watches a deferrable task's job before it defers the task: a job that"
        " ends within it costs no trigger.",
    ),
    Option(
        "runners",
        "string",
        "",
        "What runs the actions whose operator names no runner: a JSON list, or the path of a YAML or JSON"
        " file. The first runner whose actions match the action's type launches it.",
        '[{"name": "etl", "kind": "local", "actions": ["etl.*"], "command": ["etl", "{{ action.type }}"]}]',
    ),
    Option(
        "fallback_on_first",
        "boolean",
        "False",
        "Whether the first of the runners handles unmatched action types. Otherwise such an action ends with"
        " the error NoRunner.",
    ),
    Option(
        "reap_after",
        "float",
        "120",
        "How many seconds an action must have been unwatched before the API server ends it: its task instance"
        " is over, or gone, and no next try is going to adopt its job. 0: never; 'airflow asyncaction reap'"
        " ends it.",
    ),
    Option(
        "live_pod_logs",
        "integer",
        "100",
        "How many containers' logs one triggerer follows at a time while tasks are deferred. The logs of the"
        " other containers are read when they end.",
    ),
    Option(
        "web_threads",
        "integer",
        "4",
        "Threads that serve the job routes in one API server process. More than [database]"
        " sql_alchemy_pool_size make it slower: each then opens a connection for every request.",
    ),
    Option(
        "file_stores",
        "string",
        "",
        "Where contents of files are kept, as JSON: names, and URLs as ObjectStoragePath takes them. Jobs"
        ' know the first, or the one of that name, as "default". Empty: a folder in AIRFLOW_HOME.',
        '{"default": "file:///var/lib/asyncaction", "lake": "s3://aws_default@bucket/prefix"}',
    ),
    Option(
        "file_url_valid_for",
        "float",
        "3600",
        "How many seconds a URL for a content can be used after a job was given it.",
    ),
    Option("max_file_bytes", "integer", str(5 * 1024**3), "Largest file, in bytes."),
    Option("max_files", "integer", "10000", "Most files, inputs and outputs together, of one action."),
    Option(
        "transfer_patience",
        "float",
        "30",
        "How many seconds a client may be silent while it sends a body or reads an answer, contents included."
        " In all, it may take so long and a second for each KiB.",
    ),
    Option(
        "file_threads",
        "integer",
        "8",
        "Threads that read, write and digest contents in one API server process.",
    ),
    Option(
        "gc_freeze",
        "boolean",
        "True",
        "Move what the API server has loaded out of the garbage collector's sight once the job routes are"
        " warm. Without it each full collection stops all requests for some 0.4 s.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The section, parsed."""

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
    web_threads: int
    gc_freeze: bool
    file_stores: Mapping[str, str]
    file_url_valid_for: timedelta
    max_file_bytes: int
    max_files: int
    transfer_patience: timedelta
    file_threads: int


@cache
def load() -> Settings:
    """Read the section once per process.

    :raises ValueError: an option has a value that makes no sense
    """
    values = {option.name: _read(option) for option in OPTIONS}
    url = "/" + str(values["url"]).strip("/")
    if url == "/":
        raise ValueError(f"[{SECTION}] url must be a path below the root, such as /async")
    limits = Limits(
        body_bytes=_at_most("max_body_bytes", values["max_body_bytes"], LARGEST_BODY_BYTES),
        report_log_lines=values["max_report_log_lines"],
        line_bytes=values["max_line_bytes"],
        kept_log_lines=values["max_log_lines"],
        kept_log_bytes=values["max_log_bytes"],
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
        web_threads=values["web_threads"],
        gc_freeze=values["gc_freeze"],
        file_stores=_file_stores(values["file_stores"]),
        file_url_valid_for=timedelta(seconds=values["file_url_valid_for"]),
        max_file_bytes=values["max_file_bytes"],
        max_files=values["max_files"],
        transfer_patience=timedelta(seconds=_above_zero("transfer_patience", values["transfer_patience"])),
        file_threads=values["file_threads"],
    )


def _host(option: str, value: str) -> str:
    if re.search(r"[/\s@?#]", value) or (":" in value and not _is_ipv6(value)):
        raise ValueError(f"[{SECTION}] {option} is {value!r}: it must be a host name or an IP address alone")
    return value


def _is_ipv6(value: str) -> bool:
    try:
        return ipaddress.ip_address(value).version == 6
    except ValueError:
        return False


def hook_url() -> str:
    """Return the absolute URL of the job routes as workers and jobs reach them, without a trailing slash.

    ``[asyncaction] base_url``, else beside the execution API, which workers reach by definition.

    :raises ValueError: ``base_url`` is not absolute
    """
    from airflow.configuration import conf

    if given := conf.get(SECTION, "base_url", fallback=""):
        if not given.startswith(("http://", "https://")):
            raise ValueError(f"[{SECTION}] base_url is {given!r}: it must begin with http:// or https://")
        return given.rstrip("/")
    url = load().url
    if execution_api := conf.get("core", "execution_api_server_url", fallback=""):
        return execution_api.rstrip("/").removesuffix("/execution") + url
    base = conf.get("api", "base_url", fallback="") or "/"
    if base.startswith("/"):
        base = f"http://localhost:8080{base}"
    return base.rstrip("/") + url


def has_hook_url() -> bool:
    """Tell whether the configuration says where the job routes are: else :func:`hook_url` is a guess."""
    from airflow.configuration import conf

    given = (
        conf.get(SECTION, "base_url", fallback=""),
        conf.get("core", "execution_api_server_url", fallback=""),
        conf.get("api", "base_url", fallback=""),
    )
    return any(url and url.startswith(("http://", "https://")) for url in given)


def resume_settle() -> timedelta:
    """Return how long after a task was deferred it may be resumed.

    Not an option: it follows from how long a task's supervisor may take to see that its process has ended.
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
    return {SECTION: {"description": "Jobs that report back (airflow-asyncaction).", "options": options}}


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
    said = f"[{SECTION}] file_stores must be a JSON object of names and URLs"
    try:
        stores = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from None
    if not isinstance(stores, dict) or not stores:
        raise ValueError(said)
    for name, url in stores.items():
        if not _STORE_NAME.fullmatch(name):
            raise ValueError(f"{said}: {name!r} is no name: use up to 50 of A-Z a-z 0-9 _ -")
        if not isinstance(url, str) or not re.match(r"[a-z][a-z0-9+.-]*://.|file:///", url):
            raise ValueError(
                f"{said}: {name} has none, such as file:///folder or s3://connection@bucket/prefix"
            )
        if url.startswith("file:") and not url.startswith("file:///"):
            raise ValueError(f"{said}: {name} must have an absolute path: file:///folder")
    return stores


def _name(option: str, value: str) -> str:
    if not is_name(value):
        raise ValueError(f"[{SECTION}] {option} is {value!r}: it must be 1 to {MAX_NAME_CHARS} characters")
    return value


def _above_zero(name: str, value: float) -> float:
    if value == 0:
        raise ValueError(f"[{SECTION}] {name} is 0: it must be more")
    return value


def _at_most(name: str, value: int, most: int) -> int:
    if value > most:
        raise ValueError(
            f"[{SECTION}] {name} is {value}: it must be at most {most}, the most that clients send"
        )
    return value


def _at_least_zero(option: Option, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"[{SECTION}] {option.name} is {value}: it must be 0 or more")
    return value
