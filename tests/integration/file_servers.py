# SPDX-License-Identifier: Apache-2.0
"""File servers with their own settings and folder, and the contents of that folder and of the tables."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Row, select

from airflow_asyncaction import settings
from airflow_asyncaction.services import Services, open_services
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.models import content_table, file_table
from airflow_asyncaction.web.app import Serving, create_app, create_asgi_app
from tests.integration.servers import Uncompleted, served_alone, served_mounted
from tests.integration.signed_jobs import HookClient

SERVERS = ["alone", "mounted"]

one_server_each = pytest.mark.parametrize(
    ("database", "server"),
    [("sqlite", "alone"), ("postgresql", "mounted")],
    indirect=["database"],
    scope="session",
)
"""Marks tests that would take too long with both ways to serve and both databases."""


@dataclass(frozen=True)
class Folder:
    """The folder of a local file store, which is the default store of jobs."""

    root: Path
    store: str = field(default_factory=lambda: f"store-{secrets.token_hex(4)}")

    def options(self, **changes: Any) -> Settings:
        """Return the settings of a server whose only store is this one."""
        return replace(settings.load(), file_stores={self.store: self.root.as_uri()}, **changes)

    def names(self) -> set[str]:
        """Return the relative paths of all files in the folder."""
        found = self.root.rglob("*")
        return {str(path.relative_to(self.root)) for path in found if path.is_symlink() or not path.is_dir()}

    def contents(self) -> list[Path]:
        """Return the contents of all files in the folder."""
        return sorted(self.root.glob("contents/*/*"))

    def becomes(self, names: set[str], seconds: float = 5.0) -> bool:
        """Wait until the folder contains exactly these files. Return whether it does."""
        until = time.monotonic() + seconds
        while self.names() != names and time.monotonic() < until:
            time.sleep(0.02)
        return self.names() == names

    def content_rows(self, engine: Engine) -> list[Row[Any]]:
        """Return the rows of the stored contents."""
        with engine.connect() as connection:
            return list(connection.execute(select(content_table).where(content_table.c.store == self.store)))

    def attached_rows(self, engine: Engine) -> list[Row[Any]]:
        """Return the rows of attached files whose content is in this store."""
        attached = select(file_table).where(
            file_table.c.store == self.store, file_table.c.attached_at.is_not(None)
        )
        with engine.connect() as connection:
            return list(connection.execute(attached))


class Kept:
    """The stored contents in a folder and in the tables."""

    def __init__(self, engine: Engine, folder: Folder) -> None:
        self._engine, self._folder = engine, folder

    def is_nothing(self) -> bool:
        """Return whether nothing is stored, now or in a moment."""
        is_empty = self._folder.becomes(set())
        return is_empty and not (
            self._folder.content_rows(self._engine) or self._folder.attached_rows(self._engine)
        )

    def is_one(self) -> bool:
        """Return whether exactly one content is stored, and no other file."""
        (content,) = self._folder.content_rows(self._engine)
        return self._folder.becomes({f"contents/{content.id[-2:]}/{content.id}"})


class Ready(Uncompleted):
    """The mounted app with other services."""

    def __init__(self, services: Services, serving: Serving) -> None:
        super().__init__()
        self._app = create_asgi_app(services, serving)


@contextmanager
def served_files(server: str, services: Services, serving: Serving | None = None) -> Iterator[str]:
    """Serve the routes with these services, as the Flask app ``alone`` or ``mounted``; yield the hook."""
    if server == "alone":
        with served_alone(create_app(services)) as hook:
            yield hook
    else:
        with served_mounted(Ready(services, serving or Serving())) as url:
            yield url + settings.load().url


Serve = Callable[..., HookClient]
"""Starts a server of a folder with changed settings, and returns its client."""


@contextmanager
def serving(server: str, folder: Folder) -> Iterator[Serve]:
    """Let a test start servers, which stop at its end."""
    with ExitStack() as stack:

        def serve(how: Serving | None = None, **changes: Any) -> HookClient:
            services = open_services(folder.options(**changes))
            hook = stack.enter_context(served_files(server, services, how))
            return stack.enter_context(HookClient(hook))

        yield serve
