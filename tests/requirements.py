# SPDX-License-Identifier: Apache-2.0
"""Requirements of tests on the machine. If one is missing, the test is skipped with installation advice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from dev.cluster import Cluster
    from dev.s3 import S3Server

STRICT = os.environ.get("CI") == "true" or "ASYNCACTION_TEST_REQUIRE_ALL" in os.environ
"""Whether a test with a missing requirement fails instead of being skipped."""

_DEBIAN_PACKAGES = {"ksh93": "ksh93u+m", "node": "nodejs", "sh": "dash"}
"""Packages whose name differs from that of their program."""

_ROOT = Path(__file__).parents[1]
TYPESCRIPT_CLIENT = _ROOT / "tests" / "openapi_clients"
"""A TypeScript client and its npm dependencies."""

WEBDA_APPLICATION = _ROOT / "build" / "webda"
WEBDA_IMAGE = "ASYNCACTION_TEST_WEBDA_IMAGE"
"""Environment variable that names an image of that application, with Node.js."""


def leave_out(reason: str) -> NoReturn:
    """Skip a test, or fail it if nothing may be skipped.

    :param reason: one line: what is missing, and how to install it. It is the same for all tests that miss
        it, so that the summary has one line for them
    """
    if STRICT:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Skip a test if a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(_DEBIAN_PACKAGES.get(program, program) for program in missing)
        leave_out(f"{', '.join(missing)} not installed: apt-get install {packages}")


@contextmanager
def s3_or_skip() -> Iterator[S3Server]:
    """Run an S3 server."""
    from dev.s3 import S3Error, S3Server

    try:
        server = S3Server().__enter__()
    except S3Error as error:
        leave_out(str(error))
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def kube_or_skip() -> Iterator[Cluster]:
    """Create a namespace on the cluster of ASYNCACTION_TEST_KUBECONFIG."""
    from dev.cluster import Cluster, ClusterError

    try:
        cluster = Cluster(with_forwarder=True).__enter__()
    except ClusterError as error:
        leave_out(str(error))
    try:
        yield cluster
    finally:
        cluster.stop()


def next_airflow_or_skip() -> Path:
    """Return the interpreter of the environment with the newest pre-release of Airflow."""
    python = _ROOT / ".venv-next" / "bin" / "python"
    if not python.is_file():
        leave_out("no environment with the next Airflow: make venv AIRFLOW=next")
    return python


def webda_or_skip() -> None:
    """Require a build of the webda application in tests/webda."""
    if not (WEBDA_APPLICATION / "operations.json").is_file():
        leave_out(
            "no webda application in build/webda: build it from tests/webda as build_webda in .ci/run does"
        )


def webda_image_or_skip() -> None:
    """Require an image of that application."""
    webda_or_skip()
    if not os.environ.get(WEBDA_IMAGE):
        leave_out(f"no image of the webda application: set {WEBDA_IMAGE} to one with build/webda in /webda")


def typescript_generator_or_skip() -> Path:
    """Return the ``node_modules`` with the dependencies of ``TYPESCRIPT_CLIENT``."""
    need("node")
    installed = _ROOT / "build" / "openapi-clients"
    locks = [folder / "package-lock.json" for folder in (installed, TYPESCRIPT_CLIENT)]
    is_there = (installed / "node_modules").is_dir() and locks[0].is_file()
    if not is_there or locks[0].read_bytes() != locks[1].read_bytes():
        leave_out(
            "no TypeScript client generator: install -Dt build/openapi-clients"
            " tests/openapi_clients/package*.json && npm ci --prefix build/openapi-clients"
        )
    return installed / "node_modules"
