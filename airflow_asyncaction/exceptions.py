# SPDX-License-Identifier: Apache-2.0
"""Exceptions of this package.

AsyncActionError
├── ProtocolError               a job's request is invalid
│   ├── SignatureError          its signature is invalid
│   │   └── StaleTime           its time differs too much from the server's
│   ├── MalformedRequest         its body is malformed
│   └── RequestTooLarge          it exceeds a limit
├── JobInfoError                the JOB_ variables are missing or invalid
├── ServerError                 the API server refused a request
│   ├── ServerUnreachable       ... or did not respond
│   └── Superseded              ... because a newer attempt took over: stop
├── ActionEnded                 an action ended in a state other than SUCCESS
│   ├── ActionFailed            ERROR
│   │   ├── PodFailed           ... because its pod failed, for the reason that the cluster gives
│   │   │   ├── OOMKilled, Evicted, DeadlineExceeded, NodeLost, PodDeleted
│   │   │   ├── ImagePull, InvalidImageName, CreateContainerConfigError, StartError, InitContainerFailed
│   │   │   └── Unschedulable, PodRefused, SecretRefused, ReturnFileInvalid
│   │   ├── ExitCode            ... the exit code of the process was not 0
│   │   ├── Signal              ... a signal killed the process
│   │   ├── ExitCodeMismatch    ... the job reported SUCCESS, and then its process failed
│   │   ├── NoRunner            ... no configured runner handles the action's type
│   │   └── NoReport            ... the job did not report its end, although it must
│   ├── ActionTimedOut          TIMEOUT
│   │   ├── JobNeverStarted     start_timeout expired
│   │   └── HeartbeatTimeout    heartbeat_timeout expired
│   └── ActionStopped           STOPPED
│       └── Skipped             ... the action was skipped, as Airflow skips tasks: it did not fail
├── ClusterNotConfigured        no usable Kubernetes cluster is configured
├── ActionNotFound              the action does not exist
├── ActionAdopted               another process of the task has adopted the action
├── RequestRefused              the server refuses a request
│   ├── RegistrationRefused     ... of a task instance that could not prove its identity
│   ├── UserRefused             ... from a user
│   └── FileRefused             ... to upload or download a file
├── FileStoreUnavailable        a file store does not respond or is full
├── SecretUnreadable            a job's secret was encrypted with another key
├── StoreUnavailable            the database, or Airflow's own API, does not respond
└── TablesMissing               the database lacks the tables of this package
"""

from __future__ import annotations


class AsyncActionError(Exception):
    """An error of airflow-asyncaction."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else type(self).__doc__)


class ProtocolError(AsyncActionError):
    """A job's request is invalid.

    ``code`` is the ``error`` of the response body.
    """

    code = "protocol_error"


class SignatureError(ProtocolError):
    """The request does not have a valid signature."""

    code = "bad_signature"


class StaleTime(SignatureError):
    """X-Job-Time differs too much from the server's clock: set this machine's clock, or use serverTime."""

    code = "stale_time"


class MalformedRequest(ProtocolError):
    """The body is malformed. ``field`` names the invalid part, ``""`` the whole body."""

    code = "malformed"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class RequestTooLarge(ProtocolError):
    """The report exceeds a limit: send several smaller reports."""

    code = "too_large"


class JobInfoError(AsyncActionError):
    """The JOB_ variables are missing or invalid."""


class ServerError(AsyncActionError):
    """The API server refused a request.

    ``status`` is the HTTP status (0: no response), ``code`` the ``error`` of the response body, and
    ``retry_after_seconds`` the value of ``Retry-After``.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int = 0,
        code: str = "",
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class ServerUnreachable(ServerError):
    """The API server could not be reached."""


class Superseded(ServerError):
    """The action has a newer attempt, or Airflow has ended it: stop the job."""


class ActionEnded(AsyncActionError):
    """An action ended in a state other than SUCCESS.

    ``error_name`` and ``error_message`` are those of the action.
    """

    def __init__(self, *, action_id: str, error_name: str | None, error_message: str | None) -> None:
        self.action_id = action_id
        self.error_name = error_name or type(self).__name__
        self.error_message = error_message or ""
        super().__init__(f"{self.error_name}: {self.error_message}" if error_message else self.error_name)


class ActionFailed(ActionEnded):
    """The job failed, according to its report or its exit."""


class PodFailed(ActionFailed):
    """A pod failed. Retry rules can name this class or a subclass.

    It is raised for reasons that have no subclass, such as a volume that cannot be mounted.
    """


class OOMKilled(PodFailed):
    """A container exceeded its memory limit. Raise the limit: a retry alone does not help."""


class Evicted(PodFailed):
    """The pod was evicted: its node lacked memory or disk, or was drained or shut down."""


class DeadlineExceeded(PodFailed):
    """The pod exceeded its activeDeadlineSeconds."""


class NodeLost(PodFailed):
    """The pod's node was lost."""


class PodDeleted(PodFailed):
    """The pod was deleted while it was running."""


class ImagePull(PodFailed):
    """The image cannot be pulled."""


class InvalidImageName(PodFailed):
    """The image name is invalid."""


class CreateContainerConfigError(PodFailed):
    """A variable or volume of the pod refers to a missing Secret or ConfigMap, or to a missing key of it."""


class StartError(PodFailed):
    """The container's command cannot be started."""


class InitContainerFailed(PodFailed):
    """An init container failed, so the job was not started. The message contains its last log lines."""


class Unschedulable(PodFailed):
    """The pod was not scheduled to a node within its start_timeout."""


class PodRefused(PodFailed):
    """The Kubernetes API rejected the pod."""


class SecretRefused(PodFailed):
    """The Kubernetes API rejected the job's Secret."""


class ReturnFileInvalid(PodFailed):
    """The job's /airflow/xcom/return.json is invalid or too large for an XCom."""


class ExitCode(ActionFailed):
    """The process exited with a code other than 0."""


class Signal(ActionFailed):
    """A signal killed the process."""


class ExitCodeMismatch(ActionFailed):
    """The job reported SUCCESS, and then its process failed."""


class NoRunner(ActionFailed):
    """No runner in [asyncaction] runners handles actions of this type."""


class NoReport(ActionFailed):
    """The process exited with code 0, but did not report its end as required."""


class ActionTimedOut(ActionEnded):
    """A timeout of the action expired."""


class JobNeverStarted(ActionTimedOut):
    """The job did not start, or did not report as required, within start_timeout."""


class HeartbeatTimeout(ActionTimedOut):
    """No report arrived within heartbeat_timeout."""


class ActionStopped(ActionEnded):
    """The action was stopped, superseded or skipped before it was done."""


class Skipped(ActionStopped):
    """The job or Airflow skipped the action: it did not fail."""


def error_class(parent: type[ActionEnded], error_name: str | None) -> type[ActionEnded]:
    """Return the subclass of ``parent`` with the name of an action's error, or else ``parent``.

    Only classes of this module are considered, since jobs choose the names of their errors.
    """
    for kind in parent.__subclasses__():
        if kind.__module__ != __name__:
            continue
        found = error_class(kind, error_name)
        if found is not kind or kind.__name__ == error_name:
            return found
    return parent


class ClusterNotConfigured(AsyncActionError):
    """No usable Kubernetes cluster is configured for a task that runs a pod."""


class ActionNotFound(AsyncActionError):
    """The action does not exist."""


class ActionAdopted(AsyncActionError):
    """Another process of the task has adopted this action. Leave its job running."""


class StoreUnavailable(AsyncActionError):
    """The database is unavailable. Retry later."""


class SecretUnreadable(AsyncActionError):
    """A job's secret cannot be decrypted: it was encrypted with a key that is not in [core] fernet_key."""


class TablesMissing(AsyncActionError):
    """The tables of airflow-asyncaction are missing: run 'airflow db migrate'."""


class RequestRefused(AsyncActionError):
    """A request was refused. ``code`` is the ``error`` of the response body."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class RegistrationRefused(RequestRefused):
    """The task instance could not prove that it may register an action."""


class UserRefused(RequestRefused):
    """A user's request was refused. ``more`` is added to the response body."""

    def __init__(self, message: str, *, code: str, **more: str) -> None:
        super().__init__(message, code=code)
        self.more = more


class FileRefused(RequestRefused):
    """An upload or download was refused."""


class FileStoreUnavailable(AsyncActionError):
    """A file store failed or did not respond. Retry; if it persists, see the API server's log.

    ``is_full``: whether it has no space left.
    """

    def __init__(self, message: str | None = None, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full
