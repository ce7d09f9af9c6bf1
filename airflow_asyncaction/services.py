# SPDX-License-Identifier: Apache-2.0
"""Composition root of the server side: creates its services from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from airflow import settings as airflow_settings

from airflow_asyncaction import settings as our_settings
from airflow_asyncaction.files.service import FileLimits, Files
from airflow_asyncaction.files.stores.configured import FileStores
from airflow_asyncaction.files.tokens import create_tokens
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.completion import Completion


@dataclass(frozen=True)
class Services:
    """Services that routes and commands call."""

    settings: Settings
    actions: Actions
    stores: FileStores
    files: Files


def open_services(settings: Settings | None = None) -> Services:
    """Return the services on Airflow's own database engine.

    :param settings: by default, the configured ones
    :raises TablesMissing: ``airflow db migrate`` has not been run since this package was installed
    """
    settings = settings or our_settings.load()
    completion = Completion(settle=our_settings.resume_settle())
    actions = Actions(
        airflow_settings.get_engine(),
        replay_window=2 * settings.max_clock_skew,
        completion=completion,
        max_log_bytes=settings.limits.kept_log_bytes,
    )
    actions.check_tables()
    stores = FileStores(settings.file_stores)
    limits = FileLimits(max_file_bytes=settings.max_file_bytes, max_files=settings.max_files)
    files = Files(actions, stores, create_tokens(settings.file_url_valid_for), limits)
    return Services(settings, actions, stores, files)
