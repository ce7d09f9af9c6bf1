# SPDX-License-Identifier: Apache-2.0
"""Route URLs: where jobs and tasks reach the routes of this package, according to the configuration."""

from __future__ import annotations

from airflow.configuration import conf

from airflow_asyncaction import settings


def configured_hook_url() -> str:
    """Return the absolute URL of the job routes as jobs reach them, without a trailing slash.

    This is ``[asyncaction] base_url`` or, by default, a URL next to the Execution API, which workers reach by
    definition.

    :raises ValueError: ``base_url`` is not absolute
    """
    if given := _absolute_url("base_url"):
        return given
    url = settings.load().url
    if execution_api := conf.get("core", "execution_api_server_url", fallback=""):
        return execution_api.rstrip("/").removesuffix("/execution") + url
    base = conf.get("api", "base_url", fallback="") or "/"
    if base.startswith("/"):
        base = f"http://localhost:8080{base}"
    return base.rstrip("/") + url


def configured_task_url() -> str:
    """Return the absolute URL of the task routes as workers and triggerers reach them.

    This is ``[asyncaction] task_url`` or, by default, the URL of the job routes.

    :raises ValueError: ``task_url`` or ``base_url`` is not absolute
    """
    return _absolute_url("task_url") or configured_hook_url()


def has_hook_url() -> bool:
    """Return whether the configuration names an absolute URL. If not, :func:`configured_hook_url` guesses."""
    urls = (
        conf.get(settings.SECTION, "base_url", fallback=""),
        conf.get("core", "execution_api_server_url", fallback=""),
        conf.get("api", "base_url", fallback=""),
    )
    return any(url and url.startswith(("http://", "https://")) for url in urls)


def _absolute_url(option: str) -> str:
    """Return a URL without a trailing slash; empty if the option is not set."""
    url = conf.get(settings.SECTION, option, fallback="")
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(f"[{settings.SECTION}] {option} is {url!r}: it must begin with http:// or https://")
    return url.rstrip("/")
