# SPDX-License-Identifier: Apache-2.0
"""Everything this package raises.

AsyncActionError
├── ProtocolError               what a job sent cannot be taken
│   ├── SignatureError          who sent it is not proven
│   │   └── StaleTime           the sender's clock is too far off
│   ├── MalformedReport         it is not a report
│   └── ReportTooLarge          it exceeds a limit
├── JobInfoError                the JOB_ variables are missing or wrong
├── ServerError                 the API server refused a request
│   ├── ServerUnreachable       ... or did not answer at all
│   └── Superseded              ... because a newer attempt took over: stop
├── ActionEnded                 an action ended otherwise than in SUCCESS
│   ├── ActionFailed            ERROR
│   ├── ActionTimedOut          TIMEOUT
│   └── ActionStopped           STOPPED
├── ActionNotFound              no such action is stored
├── RegistrationRefused         a task instance did not prove what it is
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


class MalformedReport(ProtocolError):
    """The body is not a report. ``field`` names the part that is wrong, ``""`` for the whole."""

    code = "malformed"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ReportTooLarge(ProtocolError):
    """The report exceeds a limit: send it in parts."""

    code = "too_large"


class JobInfoError(AsyncActionError):
    """The JOB_ variables are missing or wrong."""


class ServerError(AsyncActionError):
    """The API server refused a request.

    ``status`` is the HTTP status (0: no answer), ``code`` the stable ``error`` of the answer's body.
    """

    def __init__(self, message: str | None = None, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


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


class ActionTimedOut(ActionEnded):
    """One of the action's clocks ran out."""


class ActionStopped(ActionEnded):
    """The action was asked to stop and did."""


class ActionNotFound(AsyncActionError):
    """No such action is stored."""


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
