# SPDX-License-Identifier: Apache-2.0
"""What tests need of the machine, and what becomes of those whose means are missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dev.postgres import Postgres, PostgresError
from dev.s3 import S3Error, S3Server

STRICT = os.environ.get("CI") == "true" or "ASYNCACTION_TEST_REQUIRE_ALL" in os.environ
"""Whether a test whose means are missing fails, rather than being skipped."""


@contextmanager
def postgres_or_skip() -> Iterator[Postgres]:
    """Run a PostgreSQL; where there is none, skip with a line that says how to get it, or fail."""
    try:
        server = Postgres().__enter__()
    except PostgresError as error:
        if STRICT:
            raise
        pytest.skip(str(error).splitlines()[0])
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def s3_or_skip() -> Iterator[S3Server]:
    """Run an S3 server, likewise."""
    try:
        server = S3Server().__enter__()
    except S3Error as error:
        if STRICT:
            raise
        pytest.skip(str(error).splitlines()[0])
    try:
        yield server
    finally:
        server.stop()
