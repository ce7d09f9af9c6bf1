# SPDX-License-Identifier: Apache-2.0
"""What tests need of the machine, and what becomes of those whose means are missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from dev.cluster import Cluster, ClusterError
from dev.postgres import Postgres, PostgresError
from dev.s3 import S3Error, S3Server

Server = TypeVar("Server", Postgres, S3Server, Cluster)

STRICT = os.environ.get("CI") == "true" or "ASYNCACTION_TEST_REQUIRE_ALL" in os.environ
"""Whether a test whose means are missing fails, rather than being skipped."""


@contextmanager
def postgres_or_skip() -> Iterator[Postgres]:
    """Run a PostgreSQL; where there is none, skip with a line that says how to get it, or fail."""
    with _run_or_skip(Postgres, PostgresError) as server:
        yield server


@contextmanager
def s3_or_skip() -> Iterator[S3Server]:
    """Run an S3 server, likewise."""
    with _run_or_skip(S3Server, S3Error) as server:
        yield server


@contextmanager
def kube_or_skip() -> Iterator[Cluster]:
    """Make a namespace on the cluster of ASYNCACTION_TEST_KUBECONFIG, likewise."""
    with _run_or_skip(lambda: Cluster(can_be_away=True), ClusterError) as cluster:
        yield cluster


@contextmanager
def _run_or_skip(make: Callable[[], Server], missing: type[Exception]) -> Iterator[Server]:
    try:
        server = make().__enter__()
    except missing as error:
        if STRICT:
            raise
        pytest.skip(str(error).splitlines()[0])
    try:
        yield server
    finally:
        server.stop()
