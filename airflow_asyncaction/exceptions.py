# SPDX-License-Identifier: Apache-2.0
"""Exceptions of this package.

AsyncActionError
├── ProtocolError               a request of a job is invalid
│   ├── SignatureError          its signature is invalid
│   │   └── StaleTime           the clocks differ too much
│   ├── MalformedReport         its body is invalid
│   └── ReportTooLarge          it exceeds a limit
├── JobInfoError                the JOB_ variables are missing or invalid
├── ServerError                 the API server refused a request
│   ├── ServerUnreachable       ... or could not be reached
│   └── Superseded              ... because the action has a newer attempt or has ended
├── ActionEnded                 an action ended in a state other than SUCCESS
│   ├── ActionFailed            ERROR
│   │   ├── PodFailed           ... of a pod, for a reason that the cluster gives
│   │   │   ├── OOMKilled, Evicted, DeadlineExceeded, NodeLost, PodDeleted
│   │   │   ├── ImagePull, InvalidImageName, CreateContainerConfigError, StartError, InitContainerFailed
│   │   │   └── Unschedulable, PodRefused, SecretRefused, ReturnFileInvalid
│   │   ├── ExitCode            ... with a nonzero exit code
│   │   ├── Signal              ... by a signal
│   │   ├── ExitCodeMismatch    ... after the job had reported SUCCESS
│   │   ├── NoRunner            ... no runner matches its type
│   │   └── NoReport            ... without the required report
│   ├── ActionTimedOut          TIMEOUT
│   │   ├── JobNeverStarted     start_timeout expired
│   │   └── HeartbeatTimeout    heartbeat_timeout expired
│   └── ActionStopped           STOPPED
│       └── Skipped             skipped, as Airflow skips tasks
├── ClusterNotConfigured        no usable Kubernetes cluster is configured
├── ActionNotFound              the action does not exist
├── ActionAdopted               another process of the task has adopted the action
├── RegistrationRefused         a task instance did not prove its identity
├── UserRefused                 a user's request is refused
├── FileRefused                 an upload or a download is refused
├── FileStoreUnavailable        a file store does not respond, or is full
├── SecretUnreadable            a job's secret cannot be decrypted
├── StoreUnavailable            the database does not respond
└── TablesMissing               the tables do not exist
"""

from __future__ import annotations


class AsyncActionError(Exception):
    """Base class of all exceptions of airflow-asyncaction."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else type(self).__doc__)


class ProtocolError(AsyncActionError):
    """A request of a job is invalid.

    ``code`` is the stable ``error`` of the response body.
    """

    code = "protocol_error"


class SignatureError(ProtocolError):
    """The signature of the request is invalid."""

    code = "bad_signature"


class StaleTime(SignatureError):
    """X-Job-Time differs too much from the server's clock: set the clock, or use its serverTime."""

    code = "stale_time"


class MalformedReport(ProtocolError):
    """The body is invalid. ``field`` names the invalid part; ``""`` is the whole body."""

    code = "malformed"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ReportTooLarge(ProtocolError):
    """The report exceeds a limit: send it in parts."""

    code = "too_large"


class JobInfoError(AsyncActionError):
    """The JOB_ variables are missing or invalid."""


class ServerError(AsyncActionError):
    """The API server refused a request.

    ``status`` is the HTTP status (0: no response), ``code`` the stable ``error`` of the response body, and
    ``retry_after_seconds`` how long the server asks clients to wait.
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
    """The job failed, by its own report or by its exit."""


class PodFailed(ActionFailed):
    """A pod failed for a reason that the cluster gives. Retry rules can name this class or a subclass.

    Reasons without a class of their own raise this one: a volume that cannot be mounted, for example.
    """


class OOMKilled(PodFailed):
    """A container exceeded its memory limit. Raise the limit: a retry alone does not help."""


class Evicted(PodFailed):
    """The pod was evicted: its node ran out of memory or disk, or was drained or shut down."""


class DeadlineExceeded(PodFailed):
    """The pod ran longer than its activeDeadlineSeconds."""


class NodeLost(PodFailed):
    """The pod's node is gone."""


class PodDeleted(PodFailed):
    """The pod was deleted while it ran."""


class ImagePull(PodFailed):
    """The image cannot be pulled."""


class InvalidImageName(PodFailed):
    """Invalid image name."""


class CreateContainerConfigError(PodFailed):
    """The pod refers to a missing Secret or ConfigMap, in a variable or a volume."""


class StartError(PodFailed):
    """The container's command cannot be run."""


class InitContainerFailed(PodFailed):
    """An init container failed, so the job was never started. The message contains its last lines."""


class Unschedulable(PodFailed):
    """The pod could not be scheduled to a node within start_timeout."""


class PodRefused(PodFailed):
    """The Kubernetes API rejected the pod."""


class SecretRefused(PodFailed):
    """The Kubernetes API rejected the job's Secret."""


class ReturnFileInvalid(PodFailed):
    """The job's /airflow/xcom/return.json cannot be stored as an XCom."""


class ExitCode(ActionFailed):
    """The process exited with a nonzero code."""


class Signal(ActionFailed):
    """A signal killed the process."""


class ExitCodeMismatch(ActionFailed):
    """The process failed after the job had reported SUCCESS."""


class NoRunner(ActionFailed):
    """No runner in [asyncaction] runners matches the action's type."""


class NoReport(ActionFailed):
    """The process exited with code 0, but did not report its end, which was required."""


class ActionTimedOut(ActionEnded):
    """One of the action's timeouts expired."""


class JobNeverStarted(ActionTimedOut):
    """The job did not start within start_timeout, or did not report its start where that is required."""


class HeartbeatTimeout(ActionTimedOut):
    """The job sent no report for heartbeat_timeout."""


class ActionStopped(ActionEnded):
    """The action was stopped, superseded or skipped before it was done."""


class Skipped(ActionStopped):
    """The job or Airflow skipped the action: it did not fail."""


def error_class(parent: type[ActionEnded], error_name: str | None) -> type[ActionEnded]:
    """Return the subclass of ``parent`` that has the name of an action's error, or ``parent`` itself.

    Considers classes of this module only: jobs choose the names of their errors, so they could select any
    class that happens to be loaded.
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
    """Another process of the task has adopted this action: leave its job alone."""


class StoreUnavailable(AsyncActionError):
    """The database does not respond: try again."""


class SecretUnreadable(AsyncActionError):
    """A job's secret cannot be decrypted with any of the keys in [core] fernet_key."""


class TablesMissing(AsyncActionError):
    """The tables of airflow-asyncaction are missing: run 'airflow db migrate'."""


class RegistrationRefused(AsyncActionError):
    """The task instance could not prove that it may register an action.

    ``code`` is the stable ``error`` of the response body.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class UserRefused(AsyncActionError):
    """A user's request is refused.

    ``code`` is the stable ``error`` of the response body. ``more`` contains further fields of the body.
    """

    def __init__(self, message: str, *, code: str, **more: str) -> None:
        super().__init__(message)
        self.code = code
        self.more = more


class FileRefused(AsyncActionError):
    """An upload or a download is refused.

    ``code`` is the stable ``error`` of the response body.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class FileStoreUnavailable(AsyncActionError):
    """A file store does not respond as expected: try again, and see the API server's log.

    ``is_full``: it has no space left.
    """

    def __init__(self, message: str | None = None, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full
