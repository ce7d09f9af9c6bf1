# SPDX-License-Identifier: Apache-2.0
"""Services of the API server and of commands: created from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from airflow.configuration import conf

from airflow_asyncaction import settings as our_settings
from airflow_asyncaction.airflow_internals.server import database as airflow_database
from airflow_asyncaction.files.service import FileService
from airflow_asyncaction.files.stores.configured import FileStores
from airflow_asyncaction.files.tokens import Tokens
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.completion import TaskCompleter
from airflow_asyncaction.store.database import Database


@dataclass(frozen=True)
class Services:
    """Services that routes and commands use."""

    settings: Settings
    database: Database
    actions: Actions
    stores: FileStores
    files: FileService


def open_services(settings: Settings | None = None) -> Services:
    """Return the services on Airflow's own database engine.

    :param settings: by default, the configured ones
    :raises TablesMissing: ``airflow db migrate`` has not been run since this package was installed
    """
    settings = settings or our_settings.load()
    completer = TaskCompleter(resume_delay=our_settings.resume_delay())
    database = Database(airflow_database.engine())
    database.check_tables()
    actions = Actions(
        database,
        replay_window=2 * settings.max_clock_skew,
        completer=completer,
        max_log_bytes=settings.limits.max_log_bytes,
    )
    stores = FileStores(settings.file_stores)
    tokens = Tokens(conf.get("api", "secret_key"), valid_for=settings.file_url_valid_for)
    files = FileService(
        actions, stores, tokens, max_file_bytes=settings.max_file_bytes, max_files=settings.max_files
    )
    return Services(settings, database, actions, stores, files)
