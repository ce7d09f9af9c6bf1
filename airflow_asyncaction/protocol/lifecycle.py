# SPDX-License-Identifier: Apache-2.0
"""The life of an action: what every message about it changes (PROTOCOL.md, 4).

:func:`decide` holds all of it. Whoever stores actions locks one, calls it, and writes what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar, Union

from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import SKIPPED, Action, Completion, State, StopReason, Verb
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.decisions import Accepted, Decision, Duplicate, Earlier, Refused
from airflow_asyncaction.protocol.reports import (
    MAX_MESSAGE_CHARS,
    MAX_NAME_CHARS,
    Report,
    ReportedStatus,
    kept_tail,
    printable,
)
from airflow_asyncaction.protocol.timeouts import TimeOut

T = TypeVar("T")


@dataclass(frozen=True)
class Launched:
    """The runner's word that the process is up.

    :param job: what identifies it (host, pid, pod), for people
    """

    job: Mapping[str, Any]


@keyword_dataclass
class Exit:
    """The runner's word on how the process or pod ended.

    :param code: exit code, ``None`` if it did not get that far
    :param signal: name of the signal that killed it, such as ``SIGKILL``
    :param reason: the runner's own name for it, such as ``OOMKilled``; it goes before code and signal
    :param message: what explains the reason, if there is more than the tail
    :param tail: the last lines of output
    :param is_seen: whether the runner saw how it ended; else it was gone before anybody looked
    :param is_skip: whether the job skipped itself: by an exit code that means so, or AirflowSkipException
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
        """Whether the process ended by itself with code 0."""
        return self.code == 0 and self.signal is None and self.reason is None


@dataclass(frozen=True)
class Stop:
    """Somebody wants the job to stop: it is asked to, and gets ``stop_grace`` to obey."""

    reason: StopReason


@dataclass(frozen=True)
class Abandon:
    """The worker must go before it could see the job's exit: the action ends now."""


@dataclass(frozen=True)
class Supersede:
    """A newer attempt of the same task instance has registered."""


@dataclass(frozen=True)
class Due:
    """The time has come that an action was scheduled for."""


@dataclass(frozen=True)
class Unlaunched:
    """Nothing will ever launch a queued action: its Dag run ended without it, or is gone.

    :param state: the end that it has thereby
    """

    state: State
    name: str | None = None
    message: str | None = None


OtherMessage = Union[Launched, Exit, Stop, Abandon, Supersede, TimeOut, Due, Unlaunched]
Message = Union[Report, OtherMessage]


def decide(
    action: Action,
    message: Message,
    now: datetime,
    *,
    earlier: Earlier | None = None,
    body_sha256: str = "",
) -> Decision:
    """Say what a message about an action changes.

    :param earlier: the report that is stored under this one's key, if any
    :param body_sha256: of this report, to compare with ``earlier``
    """
    if earlier is not None:
        return _again(earlier, body_sha256)
    if isinstance(message, Report):
        return _report(action, message, now)
    return Accepted(_changed(action, message, now))


def _changed(action: Action, message: OtherMessage, now: datetime) -> Action:
    """Apply any other message than a report."""
    if isinstance(message, Launched):
        return _launched(action, message, now)
    if isinstance(message, Exit):
        return _exited(action, message, now)
    if isinstance(message, Stop):
        return _stopping(action, message, now)
    if isinstance(message, Abandon):
        return _abandoned(action, now)
    if isinstance(message, Supersede):
        return _fenced(action, now, "Superseded", "A newer attempt took over")
    if isinstance(message, TimeOut):
        return _timed_out(action, message, now)
    return _waited(action, message, now)


def _again(earlier: Earlier, body_sha256: str) -> Decision:
    if earlier.body_sha256 != body_sha256:
        return Refused.because("nonce_reused")
    if earlier.refused_with is not None:
        return replace(Refused.because(earlier.refused_with), repeated=True)
    return Duplicate()


def _report(action: Action, report: Report, now: datetime) -> Decision:
    if action.fenced:
        return Refused.because("superseded")
    if not report.is_terminal:
        return Accepted(action if action.state.is_end else _news(action, report, now))
    if action.state.is_end:
        return Accepted(action) if _is_same_end(action, report) else Refused.because("already_ended")
    return Accepted(_reported_end(action, report, now))


def _is_same_end(action: Action, report: Report) -> bool:
    """Tell whether a terminal report says again how an action has ended. What it leaves out does not differ.

    For a job that signs with v1, the status is all that counts: a webda job exits with an error if a report
    is refused, and so would turn the SUCCESS that it has reported into an ExitCodeMismatch.
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
    ended = replace(_news(action, report, now), reported=report.status, ended_at=now)
    if report.status is ReportedStatus.SUCCESS:
        return replace(
            ended, state=State.SUCCESS, error_name=report.error_name, error_message=report.error_message
        )
    if action.stop_reason is not None:  # it failed since it was asked to stop, and says how
        name = ended.error_name if ended.error_name != SKIPPED else None
        name = name or action.stop_reason.value
        return replace(ended, state=_stopped_state(action.stop_reason), error_name=name)
    return replace(ended, state=State.ERROR, error_name=ended.error_name or "JobError")


def _stopped_state(reason: StopReason) -> State:
    return State.TIMEOUT if reason is StopReason.EXECUTION_TIMEOUT else State.STOPPED


def _news(action: Action, report: Report, now: datetime) -> Action:
    return replace(
        action,
        state=State.RUNNING,
        started_at=action.started_at or now,
        last_report_at=now,
        status_details=_newer(report.status_details, action.status_details),
        results=_newer(report.results, action.results),
        error_name=_newer(report.error_name, action.error_name),
        error_message=_newer(report.error_message, action.error_message),
        agent=_newer(report.agent, action.agent),
    )


def _newer(new: T | None, old: T | None) -> T | None:
    return old if new is None else new


def _launched(action: Action, launched: Launched, now: datetime) -> Action:
    job = strict_json.dumps(dict(launched.job))
    if action.state.is_end:
        return replace(action, job=job)
    return replace(action, job=job, state=State.RUNNING, started_at=action.started_at or now)


def _waited(action: Action, message: Due | Unlaunched, now: datetime) -> Action:
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


def _stopping(action: Action, stop: Stop, now: datetime) -> Action:
    if action.state.is_end:
        # A job that reported SUCCESS and still runs: the stop explains the signal that it may die of.
        is_running = action.state is State.SUCCESS and not action.is_done
        return replace(action, stop_reason=action.stop_reason or stop.reason) if is_running else action
    if action.state.is_waiting:
        stopped = replace(action, verb=Verb.STOP, stop_reason=stop.reason)
        return _fenced(stopped, now, stop.reason.value, "It was stopped before its job was launched")
    return replace(action, verb=Verb.STOP, stop_reason=action.stop_reason or stop.reason)


def _abandoned(action: Action, now: datetime) -> Action:
    if action.is_done:
        return action
    said = "The task was ended before the job's exit could be seen"
    reason = action.stop_reason or StopReason.KILLED
    fenced = _fenced(action, now, reason, said)
    return fenced if action.state.is_end else replace(fenced, state=_stopped_state(reason))


def _fenced(action: Action, now: datetime, name: str, message: str) -> Action:
    if action.state.is_end:
        return replace(action, fenced=True)
    return replace(
        action, state=State.STOPPED, error_name=name, error_message=message, ended_at=now, fenced=True
    )


def _timed_out(action: Action, time_out: TimeOut, now: datetime) -> Action:
    if action.state.is_end:
        return action
    return replace(
        action,
        state=State.TIMEOUT,
        error_name=time_out.name,
        error_message=time_out.message,
        verb=Verb.STOP,
        ended_at=now,
        fenced=True,
    )


def _exited(action: Action, exit_: Exit, now: datetime) -> Action:
    """Apply the table of PROTOCOL.md, 4. After a stop, the signal that the job died of may be ours."""
    if action.exit is not None:
        return action
    seen = replace(action, exit=_exit_json(exit_))
    if action.completion is Completion.REPORT and (
        exit_.is_clean or action.state.is_end or not exit_.is_seen
    ):
        return seen  # the work was submitted: its report is the end
    if exit_.is_skip and _can_be_skipped(action):
        said = exit_.message or f"{_exit_sentence(exit_)}, which means that it is skipped"
        return _ended(seen, State.STOPPED, SKIPPED, said[:MAX_MESSAGE_CHARS], now)
    if action.state is State.SUCCESS and action.stop_reason is None and exit_.is_seen and not exit_.is_clean:
        return _failed(seen, exit_, "ExitCodeMismatch", now)
    if action.state.is_end:
        return seen
    if action.stop_reason is not None:
        said = _stop_sentence(exit_)[:MAX_MESSAGE_CHARS]
        return _ended(seen, _stopped_state(action.stop_reason), action.stop_reason, said, now)
    if not exit_.is_clean:
        return _failed(seen, exit_, _exit_name(exit_), now)
    if action.require_report:
        return _ended(seen, State.ERROR, "NoReport", _no_report(action), now)
    return replace(seen, state=State.SUCCESS, error_name=None, error_message=None, ended_at=now)


def _can_be_skipped(action: Action) -> bool:
    """Tell whether an exit may mean that a job was skipped: not against a stop, or an error of its own.

    ``ExitCode`` is not its own: the wrapper ``asyncaction run`` reports the code that it then exits with.
    """
    if action.stop_reason is not None:
        return False
    is_wrapped = action.state is State.ERROR and action.error_name == "ExitCode"
    return is_wrapped or action.state is State.SUCCESS or not action.state.is_end


def _stop_sentence(exit_: Exit) -> str:
    """Say how a job ended that was asked to stop: nobody can tell whether it would have without a signal."""
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
    said = _exit_text(exit_)[: MAX_MESSAGE_CHARS // 2]
    tail = "\n".join(kept_tail(exit_.tail))
    return _ended(action, State.ERROR, name, f"{said}\n{tail}" if tail else said, now)


def _ended(action: Action, state: State, name: str, message: str, now: datetime) -> Action:
    return replace(
        action,
        state=state,
        error_name=printable(name)[:MAX_NAME_CHARS],
        error_message=printable(message),
        ended_at=now,
    )


def _no_report(action: Action) -> str:
    said = "The job ended with code 0 but reported neither SUCCESS nor ERROR"
    if action.service_name is None or action.last_report_at is not None:
        return said
    return (
        f"{said}, nor anything else. If the task's log has a TypeError, no service of the webda application"
        f" has the name in JOB_ORCHESTRATOR, {action.orchestrator!r}: set orchestrator to that of the"
        " AsyncJobService in its webda.config.json, in the operator, its runner, or [asyncaction]"
    )


def _exit_name(exit_: Exit) -> str:
    if exit_.reason:
        return exit_.reason
    return "Signal" if exit_.signal else "ExitCode"


def _exit_text(exit_: Exit) -> str:
    """Return how the job ended; a message of its own goes after its code or signal, not in place of it."""
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
