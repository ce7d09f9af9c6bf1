# SPDX-License-Identifier: Apache-2.0
"""JobInfo: the JOB_ environment variables of a job (PROTOCOL.md, section 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import NewType

from airflow_asyncaction.exceptions import JobInfoError
from airflow_asyncaction.protocol.compat import keyword_dataclass

JobId = NewType("JobId", str)
"""An action's UUID in its canonical text form."""

JOB_ID = "JOB_ID"
JOB_SECRET_KEY = "JOB_SECRET_KEY"  # noqa: S105 - the variable's name, not a secret
JOB_HOOK = "JOB_HOOK"
JOB_ORCHESTRATOR = "JOB_ORCHESTRATOR"
JOB_SIGNATURE = "JOB_SIGNATURE"
JOB_ARGUMENTS = "JOB_ARGUMENTS"
TRACEPARENT = "TRACEPARENT"

NAMES = (JOB_ID, JOB_SECRET_KEY, JOB_HOOK, JOB_ORCHESTRATOR, JOB_SIGNATURE, JOB_ARGUMENTS, TRACEPARENT)

MAX_ARGUMENTS_BYTES = 32 * 1024
"""Larger arguments (as JSON) are not passed in the environment. ``GET /job`` returns them."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_job_id(text: str) -> bool:
    """Return whether a text is a UUID in canonical form (8-4-4-4-12 hex digits)."""
    return _UUID.fullmatch(text) is not None


@keyword_dataclass
class JobInfo:
    """Identity of a job, and the URL that it reports to.

    :param hook_url: absolute URL without a trailing slash
    :param secret_key: secret of this action, hidden from ``repr``
    :param arguments: arguments of the action as JSON; ``None`` if they are too large
    """

    job_id: JobId
    secret_key: str = field(repr=False)
    hook_url: str
    orchestrator: str = "airflow"
    signature: str = "v2"
    arguments: str | None = None
    traceparent: str | None = None

    def to_environ(self) -> dict[str, str]:
        """Return the environment variables of the job."""
        environ = {
            JOB_ID: self.job_id,
            JOB_SECRET_KEY: self.secret_key,
            JOB_HOOK: self.hook_url,
            JOB_ORCHESTRATOR: self.orchestrator,
            JOB_SIGNATURE: self.signature,
        }
        if self.arguments is not None and len(self.arguments.encode()) <= MAX_ARGUMENTS_BYTES:
            environ[JOB_ARGUMENTS] = self.arguments
        if self.traceparent:
            environ[TRACEPARENT] = self.traceparent
        return environ

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> JobInfo | None:
        """Read the variables. Return ``None`` if there are none: Airflow did not start this process.

        :raises JobInfoError: some are set, and others are missing or invalid
        """
        if not any(environ.get(name) for name in (JOB_ID, JOB_SECRET_KEY, JOB_HOOK)):
            return None
        missing = [name for name in (JOB_ID, JOB_SECRET_KEY, JOB_HOOK) if not environ.get(name)]
        if missing:
            raise JobInfoError(
                f"Missing environment variables: {', '.join(missing)}. Other JOB_ variables are set"
            )
        if not is_job_id(environ[JOB_ID]):
            raise JobInfoError("JOB_ID must be a UUID")
        if not environ[JOB_HOOK].startswith(("http://", "https://")):
            raise JobInfoError("JOB_HOOK must be an http:// or https:// URL")
        return cls(
            job_id=JobId(environ[JOB_ID]),
            secret_key=environ[JOB_SECRET_KEY],
            hook_url=environ[JOB_HOOK].rstrip("/"),
            orchestrator=environ.get(JOB_ORCHESTRATOR, "airflow"),
            signature=environ.get(JOB_SIGNATURE, "v1"),
            arguments=environ.get(JOB_ARGUMENTS),
            traceparent=environ.get(TRACEPARENT),
        )
