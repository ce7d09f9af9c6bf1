# SPDX-License-Identifier: Apache-2.0
"""Lifecycle of an action: messages, and how each changes the action (PROTOCOL.md, section 4).

:func:`decide` is a pure function. The store locks an action, calls it, and writes the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar, Union

from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import (
    SKIPPED,
    Action,
    Completion,
    ExpiredTimeout,
    State,
    StopReason,
    Verb,
)
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.decisions import Accepted, Decision, Duplicate, EarlierReport, Refused
from airflow_asyncaction.protocol.reports import (
    MAX_MESSAGE_CHARS,
    MAX_NAME_CHARS,
    Report,
    ReportedStatus,
    cut_tail,
    replace_nul,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Launched:
    """The runner has started the process.

    :param job: identity of the process (host, pid, pod), for display
    """

    job: Mapping[str, Any]


@keyword_dataclass
class Exit:
    """The process or pod has ended.

    :param code: exit code; ``None`` if there is none
    :param signal: name of the signal that killed it, such as ``SIGKILL``
    :param reason: the runner's error name, such as ``OOMKilled``. It takes precedence over code and signal
    :param message: explains the reason, in addition to the tail
    :param tail: last lines of output
    :param is_seen: whether the runner saw how it ended; ``False`` if it was gone before
    :param is_skip: whether the job skipped itself, by an exit code of ``skip_on_exit_code`` or by
        AirflowSkipException
    """

    code: int | None = None
    signal: str | None = None
    reason: str | None = None
    message: str | None = None
    tail: Sequence[str] = ()
    is_seen: bool = True
    is_skip: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether the process exited with code 0."""
        return self.code == 0 and self.signal is None and self.reason is None


@dataclass(frozen=True)
class Stop:
    """The job is asked to stop. It is killed after ``stop_grace``."""

    reason: StopReason


@dataclass(frozen=True)
class Abandon:
    """The worker shuts down before it has seen the exit of the job: the action ends now."""


@dataclass(frozen=True)
class Supersede:
    """A newer attempt of the same task instance has registered."""


@dataclass(frozen=True)
class Due:
    """The scheduled time of the action has been reached."""


@dataclass(frozen=True)
class Unlaunched:
    """A queued action will never be launched: its Dag run ended without it or was deleted.

    :param state: the end of the action
    """

    state: State
    name: str | None = None
    message: str | None = None


OtherMessage = Union[Launched, Exit, Stop, Abandon, Supersede, ExpiredTimeout, Due, Unlaunched]
Message = Union[Report, OtherMessage]


def decide(
    action: Action,
    message: Message,
    now: datetime,
    *,
    earlier: EarlierReport | None = None,
    body_sha256: str = "",
) -> Decision:
    """Return how a message changes an action.

    :param earlier: the stored report with the same key, if any
    :param body_sha256: digest of this report, to compare with ``earlier``
    """
    if earlier is not None:
        return _decide_duplicate(earlier, body_sha256)
    if isinstance(message, Report):
        return _decide_report(action, message, now)
    return Accepted(_apply(action, message, now))


def _apply(action: Action, message: OtherMessage, now: datetime) -> Action:
    """Apply a message that is not a report."""
    if isinstance(message, Launched):
        return _apply_launched(action, message, now)
    if isinstance(message, Exit):
        return _apply_exit(action, message, now)
    if isinstance(message, Stop):
        return _apply_stop(action, message, now)
    if isinstance(message, Abandon):
        return _apply_abandon(action, now)
    if isinstance(message, Supersede):
        return _fenced(action, now, "Superseded", "A newer attempt took over")
    if isinstance(message, ExpiredTimeout):
        return _apply_timeout(action, message, now)
    return _apply_to_waiting(action, message, now)


def _decide_duplicate(earlier: EarlierReport, body_sha256: str) -> Decision:
    if earlier.body_sha256 != body_sha256:
        return Refused.because("nonce_reused")
    if earlier.refused_with is not None:
        return replace(Refused.because(earlier.refused_with), repeated=True)
    return Duplicate()


def _decide_report(action: Action, report: Report, now: datetime) -> Decision:
    if action.fenced:
        return Refused.because("superseded")
    if not report.is_terminal:
        return Accepted(action if action.state.is_end else _apply_fields(action, report, now))
    if action.state.is_end:
        return Accepted(action) if _is_same_end(action, report) else Refused.because("already_ended")
    return Accepted(_reported_end(action, report, now))


def _is_same_end(action: Action, report: Report) -> bool:
    """Return whether a terminal report repeats the end of an action. Fields that it omits are not compared.

    For a job that signs with v1, only the status is compared: a webda job exits with an error if a report
    is refused, which would turn the SUCCESS that it has reported into an ExitCodeMismatch.
    """
    if report.status not in (action.reported, action.state.value):
        return False
    if action.accept_v1:
        return True
    return (
        report.error_name in (None, action.error_name)
        and report.error_message in (None, action.error_message)
        and (report.results is None or strict_json.is_equal(report.results, action.results))
    )


def _reported_end(action: Action, report: Report, now: datetime) -> Action:
    ended = replace(_apply_fields(action, report, now), reported=report.status, ended_at=now)
    if report.status is ReportedStatus.SUCCESS:
        return replace(
            ended, state=State.SUCCESS, error_name=report.error_name, error_message=report.error_message
        )
    if action.stop_reason is not None:  # it was asked to stop, and reports its own error
        name = ended.error_name if ended.error_name != SKIPPED else None
        name = name or action.stop_reason.value
        return replace(ended, state=_stopped_state(action.stop_reason), error_name=name)
    return replace(ended, state=State.ERROR, error_name=ended.error_name or "JobError")


def _stopped_state(reason: StopReason) -> State:
    return State.TIMEOUT if reason is StopReason.EXECUTION_TIMEOUT else State.STOPPED


def _apply_fields(action: Action, report: Report, now: datetime) -> Action:
    return replace(
        action,
        state=State.RUNNING,
        started_at=action.started_at or now,
        last_report_at=now,
        status_details=_latest(report.status_details, action.status_details),
        results=_latest(report.results, action.results),
        error_name=_latest(report.error_name, action.error_name),
        error_message=_latest(report.error_message, action.error_message),
        agent=_latest(report.agent, action.agent),
    )


def _latest(new: T | None, old: T | None) -> T | None:
    return old if new is None else new


def _apply_launched(action: Action, launched: Launched, now: datetime) -> Action:
    job = strict_json.dumps(dict(launched.job))
    if action.state.is_end:
        return replace(action, job=job)
    return replace(action, job=job, state=State.RUNNING, started_at=action.started_at or now)


def _apply_to_waiting(action: Action, message: Due | Unlaunched, now: datetime) -> Action:
    if not action.state.is_waiting:
        return action
    if isinstance(message, Due):
        return replace(action, state=State.QUEUED)
    return replace(
        action,
        state=message.state,
        error_name=message.name,
        error_message=message.message,
        ended_at=now,
        fenced=True,
    )


def _apply_stop(action: Action, stop: Stop, now: datetime) -> Action:
    if action.state.is_end:
        # A job that has reported SUCCESS may still run, and be killed by this stop.
        is_running = action.state is State.SUCCESS and not action.is_done
        return replace(action, stop_reason=action.stop_reason or stop.reason) if is_running else action
    if action.state.is_waiting:
        stopped = replace(action, verb=Verb.STOP, stop_reason=stop.reason)
        return _fenced(stopped, now, stop.reason.value, "The action was stopped before its job was launched")
    return replace(action, verb=Verb.STOP, stop_reason=action.stop_reason or stop.reason)


def _apply_abandon(action: Action, now: datetime) -> Action:
    if action.is_done:
        return action
    text = "The task was killed before the runner saw how the job ended"
    reason = action.stop_reason or StopReason.KILLED
    fenced = _fenced(action, now, reason, text)
    return fenced if action.state.is_end else replace(fenced, state=_stopped_state(reason))


def _fenced(action: Action, now: datetime, name: str, message: str) -> Action:
    if action.state.is_end:
        return replace(action, fenced=True)
    return replace(
        action, state=State.STOPPED, error_name=name, error_message=message, ended_at=now, fenced=True
    )


def _apply_timeout(action: Action, timeout: ExpiredTimeout, now: datetime) -> Action:
    if action.state.is_end:
        return action
    return replace(
        action,
        state=State.TIMEOUT,
        error_name=timeout.name,
        error_message=timeout.message,
        verb=Verb.STOP,
        ended_at=now,
        fenced=True,
    )


def _apply_exit(action: Action, exit_: Exit, now: datetime) -> Action:
    """Apply the table in section 4 of PROTOCOL.md.

    After a stop, the exit never overrides a report: the runner itself may have sent the signal.
    """
    if action.exit is not None:
        return action
    seen = replace(action, exit=_exit_json(exit_))
    if action.completion is Completion.REPORT and (
        exit_.is_clean or action.state.is_end or not exit_.is_seen
    ):
        return seen  # the work was submitted: the terminal report ends the action
    if exit_.is_skip and _can_be_skipped(action):
        text = exit_.message or f"{_exit_sentence(exit_)}, which skips the task"
        return _ended(seen, State.STOPPED, SKIPPED, text[:MAX_MESSAGE_CHARS], now)
    if action.state is State.SUCCESS and action.stop_reason is None and exit_.is_seen and not exit_.is_clean:
        return _failed(seen, exit_, "ExitCodeMismatch", now)
    if action.state.is_end:
        return seen
    if action.stop_reason is not None:
        text = _stop_sentence(exit_)[:MAX_MESSAGE_CHARS]
        return _ended(seen, _stopped_state(action.stop_reason), action.stop_reason, text, now)
    if not exit_.is_clean:
        return _failed(seen, exit_, _exit_name(exit_), now)
    if action.require_report:
        return _ended(seen, State.ERROR, "NoReport", _no_report(action), now)
    return replace(seen, state=State.SUCCESS, error_name=None, error_message=None, ended_at=now)


def _can_be_skipped(action: Action) -> bool:
    """Return whether an exit may skip an action: not if the job was stopped or reported an error of its own.

    ``ExitCode`` is not an error of its own: the wrapper reports the exit code with which it then exits.
    """
    if action.stop_reason is not None:
        return False
    is_wrapped = action.state is State.ERROR and action.error_name == "ExitCode"
    return is_wrapped or action.state is State.SUCCESS or not action.state.is_end


def _stop_sentence(exit_: Exit) -> str:
    """Describe the end of a job that was asked to stop."""
    asked = "The job was asked to stop, and"
    if exit_.reason == "Stopped" and exit_.message:
        return exit_.message
    if exit_.reason:
        return f"{asked} ended with {exit_.reason}" + (f": {exit_.message}" if exit_.message else "")
    if exit_.signal is not None and exit_.signal != "SIGTERM":
        return f"{asked} was killed by {exit_.signal}"
    if exit_.signal is None and exit_.code not in (0, None):
        return f"{asked} exited with code {exit_.code}"
    return f"{asked} did"


def _failed(action: Action, exit_: Exit, name: str, now: datetime) -> Action:
    text = _exit_text(exit_)[: MAX_MESSAGE_CHARS // 2]
    tail = "\n".join(cut_tail(exit_.tail))
    return _ended(action, State.ERROR, name, f"{text}\n{tail}" if tail else text, now)


def _ended(action: Action, state: State, name: str, message: str, now: datetime) -> Action:
    return replace(
        action,
        state=state,
        error_name=replace_nul(name)[:MAX_NAME_CHARS],
        error_message=replace_nul(message),
        ended_at=now,
    )


def _no_report(action: Action) -> str:
    text = "The job exited with code 0 but reported neither SUCCESS nor ERROR"
    if action.service_name is None or action.last_report_at is not None:
        return text
    return (
        f"{text}, nor anything else. If the task log shows a TypeError, the webda application has no service"
        f" named {action.orchestrator!r}, the value of JOB_ORCHESTRATOR. Set orchestrator to the name of the"
        " AsyncJobService in its webda.config.json: in the operator, its runner, or [asyncaction]"
    )


def _exit_name(exit_: Exit) -> str:
    if exit_.reason:
        return exit_.reason
    return "Signal" if exit_.signal else "ExitCode"


def _exit_text(exit_: Exit) -> str:
    """Describe how the job ended. A message follows the exit code or signal, and does not replace it."""
    if exit_.reason and exit_.message:
        return exit_.message
    sentence = _exit_sentence(exit_)
    return f"{sentence}: {exit_.message}" if exit_.message else sentence


def _exit_sentence(exit_: Exit) -> str:
    if exit_.signal:
        return f"The job was killed by {exit_.signal}"
    if exit_.code is not None:
        return f"The job exited with code {exit_.code}"
    return f"The job ended: {exit_.reason}"


def _exit_json(exit_: Exit) -> strict_json.JsonText:
    fields = {"code": exit_.code, "signal": exit_.signal, "reason": exit_.reason, "message": exit_.message}
    return strict_json.dumps({name: value for name, value in fields.items() if value is not None})
