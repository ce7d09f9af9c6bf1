# SPDX-License-Identifier: Apache-2.0
"""Everything this package raises.

AsyncActionError
├── ProtocolError               what a job sent cannot be taken
│   ├── SignatureError          who sent it is not proven
│   │   └── StaleTime           the sender's clock is too far off
│   ├── MalformedRequest        a part of it is malformed
│   └── RequestTooLarge         it exceeds a limit
├── JobInfoError                the JOB_ variables are missing or wrong
├── ServerError                 the API server refused a request
│   ├── ServerUnreachable       ... or did not answer at all
│   └── Superseded              ... because a newer attempt took over: stop
├── ActionEnded                 an action ended otherwise than in SUCCESS
│   ├── ActionFailed            ERROR
│   │   ├── PodFailed           ... of a pod, in the cluster's own words
│   │   │   ├── OOMKilled, Evicted, DeadlineExceeded, NodeLost, PodDeleted
│   │   │   ├── ImagePull, InvalidImageName, CreateContainerConfigError, StartError, InitContainerFailed
│   │   │   └── Unschedulable, PodRefused, SecretRefused, ReturnFileInvalid
│   │   ├── ExitCode            ... of a process or pod: its exit code was not 0
│   │   ├── Signal              ... a signal killed it
│   │   ├── ExitCodeMismatch    ... it had reported SUCCESS, and failed then
│   │   ├── NoRunner            ... no configured runner is for its type
│   │   └── NoReport            ... it had to report its end, and did not
│   ├── ActionTimedOut          TIMEOUT
│   │   ├── JobNeverStarted     ... its start_timeout
│   │   └── HeartbeatTimeout    ... its heartbeat_timeout
│   └── ActionStopped           STOPPED
│       └── Skipped             ... it was skipped, as Airflow skips tasks: it did not fail
├── ClusterNotConfigured        no usable Kubernetes cluster is configured
├── ActionNotFound              no such action is stored
├── ActionAdopted               another process of the task has taken the action over
├── RegistrationRefused         a task instance did not prove what it is
├── UserRefused                 what a user asks for cannot be had
├── FileRefused                 a file cannot be taken or given
├── FileStoreUnavailable        a file store does not answer, or is full
├── SecretUnreadable            a job's secret was encrypted with another key
├── StoreUnavailable            the database does not answer
└── TablesMissing               it has not our tables
"""

from __future__ import annotations


class AsyncActionError(Exception):
    """Something went wrong in airflow-asyncaction."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else type(self).__doc__)


class ProtocolError(AsyncActionError):
    """What a job sent cannot be taken.

    ``code`` is the stable ``error`` of the answer's body.
    """

    code = "protocol_error"


class SignatureError(ProtocolError):
    """The request is not signed by a job of ours."""

    code = "bad_signature"


class StaleTime(SignatureError):
    """X-Job-Time is too far from the server's clock: set the clock, or use the answer's serverTime."""

    code = "stale_time"


class MalformedRequest(ProtocolError):
    """The request is malformed. ``field`` names the field that is wrong, ``""`` for the whole body."""

    code = "malformed"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class RequestTooLarge(ProtocolError):
    """The body exceeds a limit: send it in parts."""

    code = "too_large"


class JobInfoError(AsyncActionError):
    """The JOB_ variables are missing or wrong."""


class ServerError(AsyncActionError):
    """The API server refused a request.

    ``status`` is the HTTP status (0: no answer), ``code`` the stable ``error`` of the answer's body, and
    ``retry_after_seconds`` how long the server wants to be left alone.
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
    """A newer attempt took this action over, or Airflow ended it: stop."""


class ActionEnded(AsyncActionError):
    """An action ended otherwise than in SUCCESS.

    ``error_name`` and ``error_message`` are the action's own words for it.
    """

    def __init__(self, *, action_id: str, error_name: str | None, error_message: str | None) -> None:
        self.action_id = action_id
        self.error_name = error_name or type(self).__name__
        self.error_message = error_message or ""
        super().__init__(f"{self.error_name}: {self.error_message}" if error_message else self.error_name)


class ActionFailed(ActionEnded):
    """The job failed: it said so, or its exit did."""


class PodFailed(ActionFailed):
    """The cluster says why a pod failed. Retry rules can name this class, or one below it.

    It is raised itself for what has no class of its own, such as a volume that cannot be mounted.
    """


class OOMKilled(PodFailed):
    """A container used more memory than its limit. Raise the limit: a retry alone will not help."""


class Evicted(PodFailed):
    """The cluster took the pod off its node: it lacked memory or disk, or was drained or shut down."""


class DeadlineExceeded(PodFailed):
    """The pod ran for longer than its activeDeadlineSeconds."""


class NodeLost(PodFailed):
    """The pod's node went away."""


class PodDeleted(PodFailed):
    """Somebody deleted the pod while it ran."""


class ImagePull(PodFailed):
    """The image cannot be pulled."""


class InvalidImageName(PodFailed):
    """The image's name is none."""


class CreateContainerConfigError(PodFailed):
    """The pod refers to a Secret or ConfigMap that is not there, in a variable or a volume."""


class StartError(PodFailed):
    """The container's command cannot be run."""


class InitContainerFailed(PodFailed):
    """An init container failed, so that the job was never started. Its last lines are in the message."""


class Unschedulable(PodFailed):
    """No node took the pod within its start_timeout."""


class PodRefused(PodFailed):
    """The Kubernetes API did not accept the pod."""


class SecretRefused(PodFailed):
    """The Kubernetes API did not accept the job's Secret."""


class ReturnFileInvalid(PodFailed):
    """The job's /airflow/xcom/return.json cannot become its XCom."""


class ExitCode(ActionFailed):
    """The process exited with another code than 0."""


class Signal(ActionFailed):
    """A signal killed the process."""


class ExitCodeMismatch(ActionFailed):
    """The job had reported SUCCESS, and its process failed then."""


class NoRunner(ActionFailed):
    """No runner of [asyncaction] runners is for actions of this type."""


class NoReport(ActionFailed):
    """The process ended with code 0 without having reported its end, as it was required to."""


class ActionTimedOut(ActionEnded):
    """One of the action's clocks ran out."""


class JobNeverStarted(ActionTimedOut):
    """The job did not start, or report where it has to, within start_timeout."""


class HeartbeatTimeout(ActionTimedOut):
    """No report came for heartbeat_timeout."""


class ActionStopped(ActionEnded):
    """The action was asked to stop, replaced or skipped before it was done."""


class Skipped(ActionStopped):
    """The job, or Airflow, skipped the action: it did not fail."""


def error_class(parent: type[ActionEnded], error_name: str | None) -> type[ActionEnded]:
    """Return the class below ``parent`` that is named like an action's error, else ``parent`` itself.

    Only of this module: jobs name their errors themselves, and cannot choose from the classes of others.
    """
    for kind in parent.__subclasses__():
        if kind.__module__ != __name__:
            continue
        found = error_class(kind, error_name)
        if found is not kind or kind.__name__ == error_name:
            return found
    return parent


class ClusterNotConfigured(AsyncActionError):
    """No usable Kubernetes cluster is configured for a task whose job is a pod."""


class ActionNotFound(AsyncActionError):
    """No such action is stored."""


class ActionAdopted(AsyncActionError):
    """Another process of the task has taken this action over: leave its job alone."""


class StoreUnavailable(AsyncActionError):
    """The database does not answer: try again."""


class SecretUnreadable(AsyncActionError):
    """A job's secret cannot be decrypted: none of the keys in [core] fernet_key is the one it needs."""


class TablesMissing(AsyncActionError):
    """The tables of airflow-asyncaction are missing: run 'airflow db migrate'."""


class RegistrationRefused(AsyncActionError):
    """The task instance could not prove that it may register an action.

    ``code`` is the stable ``error`` of the answer's body.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class UserRefused(AsyncActionError):
    """What a user asks for cannot be had.

    ``code`` is the stable ``error`` of the answer's body; ``more`` goes into the body as well.
    """

    def __init__(self, message: str, *, code: str, **more: str) -> None:
        super().__init__(message)
        self.code = code
        self.more = more


class FileRefused(AsyncActionError):
    """A file cannot be taken or given.

    ``code`` is the stable ``error`` of the answer's body.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class FileStoreUnavailable(AsyncActionError):
    """A file store does not answer as it should: try again, and see the API server's log.

    ``is_full``: there is no space left in it.
    """

    def __init__(self, message: str | None = None, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full
