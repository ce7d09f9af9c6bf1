# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a real server for tests of job protocol clients, and the job side as one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_asyncaction.job import Job, Timing
from airflow_asyncaction.testing import JobServer, TestedJob
from dev.zipapp import build_zipapp


@pytest.fixture
def server() -> Iterator[JobServer]:
    with JobServer() as server:
        yield server


@pytest.fixture
def tested(server: JobServer) -> TestedJob:
    return server.new_job()


@pytest.fixture
def job(tested: TestedJob) -> Iterator[Job]:
    with Job(tested.info, timing=Timing(flush_seconds=0.02, report_patience_seconds=60)) as job:
        yield job


@pytest.fixture(scope="session")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zipapp(tmp_path_factory.mktemp("dist") / "asyncaction.pyz")
