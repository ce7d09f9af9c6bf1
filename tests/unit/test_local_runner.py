# SPDX-License-Identifier: Apache-2.0
"""Local runner: real commands under real guards."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from airflow_asyncaction.protocol.actions import Completion
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.base import Runner, drop_airflow_variables
from tests.unit.live_processes import (
    INFO,
    ROOT,
    SECRET,
    STUBBORN,
    Run,
    all_gone,
    all_pids,
    eventually,
    guards_of,
    is_alive,
    kill_all,
    needs_proc,
    parent_of,
    read_pid,
)


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], None], float], None]]:
    """Call something from a signal handler of the main thread, after some seconds."""

    def arm(call: Callable[[], None], seconds: float) -> None:
        def handle(_signum: int, _frame: FrameType | None) -> None:
            call()

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.getsignal(signal.SIGALRM)
    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_it_is_a_runner() -> None:
    runner: Runner = Run(["true"]).runner
    assert runner.name == "local"


def test_output_and_exit_code() -> None:
    run = Run("echo out; echo err >&2; printf 'no newline'; exit 3")
    assert run.run() == Exit(code=3, tail=tuple(line for _, line in run.lines))
    assert sorted(run.lines) == [("stderr", "err"), ("stdout", "no newline"), ("stdout", "out")]
    assert [set(job) for job in run.launched] == [{"host", "pid"}]


def test_a_list_is_run_as_it_is() -> None:
    run = Run(["printf", "%s\n", "a b", "$HOME", "*"])
    assert run.run().is_clean
    assert run.stdout == ["a b", "$HOME", "*"]


def test_a_string_is_run_by_sh_where_there_is_no_bash(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    run = Run("echo $0", environ={"PATH": str(tmp_path)})
    assert run.run().is_clean
    assert run.stdout == ["sh"]


def test_the_job_has_its_environment_and_the_job_variables_and_nothing_else() -> None:
    run = Run(["/usr/bin/env"], environ={"A": "é"})
    run.run()
    expected = {"A": "é", **INFO.to_environ(), "JOB_SECRET_KEY": "***"}
    assert sorted(run.stdout) == sorted(f"{name}={value}" for name, value in expected.items())


def test_the_environment_may_break_other_programs_but_not_the_guard() -> None:
    broken = {"LD_LIBRARY_PATH": "/nonexistent", "PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent"}
    assert Run(["/bin/sh", "-c", "exit 0"], environ=broken).run().is_clean


def test_variables_of_airflow_are_dropped() -> None:
    environ = {
        "PATH": "/bin",
        "AIRFLOW__CORE__FERNET_KEY": "x",
        "AIRFLOW_CONN_DB": "x",
        "AIRFLOW_VAR_V": "x",
        "_AIRFLOW_PROCESS_CONTEXT": "x",
        "__AIRFLOW_SUPERVISOR_FD": "x",
        "AIRFLOW_HOME": "/home",
    }
    assert drop_airflow_variables(environ) == {"PATH": "/bin", "AIRFLOW_HOME": "/home"}


def test_it_starts_in_cwd(tmp_path: Path) -> None:
    run = Run("pwd -P", cwd=str(tmp_path))
    run.run()
    assert run.stdout == [str(tmp_path.resolve())]


def test_the_tail_is_the_last_20_lines() -> None:
    assert Run("seq 1 50; exit 1").run().tail == tuple(map(str, range(31, 51)))


def test_death_by_signal() -> None:
    assert Run("kill -9 $$").run().signal == "SIGKILL"


def test_death_by_a_signal_without_a_name() -> None:
    assert Run("kill -40 $$").run().signal == "SIG40"


def test_death_of_a_shells_child_by_signal_is_a_code() -> None:
    assert Run("sh -c 'kill -9 $$'; exit $?").run().code == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["no-such-program"], "CommandNotFound"),
        (["/no/such/program"], "CommandNotFound"),
        (["./no-shebang"], "CommandNotExecutable"),
        (["./not-executable"], "CommandNotExecutable"),
        (["./bad-interpreter"], "CommandNotFound"),
        (["."], "CommandNotExecutable"),
        (["true", "x" * 3_000_000], "CommandNotExecutable"),
    ],
)
def test_what_cannot_be_executed(tmp_path: Path, command: list[str], reason: str) -> None:
    for name, content, mode in (
        ("no-shebang", "echo", 0o755),
        ("not-executable", "#!/bin/sh", 0o644),
        ("bad-interpreter", "#!/no/such/interpreter", 0o755),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    run = Run(command, cwd=str(tmp_path), environ={"PATH": "/usr/bin:/bin"})
    exit_ = run.run()
    assert (exit_.reason, exit_.code, exit_.signal) == (reason, None, None)
    assert exit_.message is not None
    assert exit_.message.startswith(command[0])
    assert run.launched == []


def test_a_bad_working_directory(tmp_path: Path) -> None:
    exit_ = Run(["true"], cwd=str(tmp_path / "absent")).run()
    assert exit_.reason == "BadWorkingDirectory"
    assert exit_.message == f"{tmp_path}/absent: No such file or directory"


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": []},
        {"command": ["a\0b"]},
        {"command": ["a"], "environ": {"A": "\0"}},
        {"command": ["a"], "environ": {"A=B": "x"}},
        {"command": ["a"], "cwd": "\0"},
    ],
)
def test_what_no_process_can_be_given_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the "):
        Run(**wrong)


def test_a_guard_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    run = Run(["true"])
    assert run.run().reason == "NotStarted"
    assert run.runner.wait() is None


@needs_proc
def test_what_cannot_be_ended_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it hung in the kernel: its guard is stopped, and so is of no use."""
    monkeypatch.setattr("airflow_asyncaction.runners.local._MARGIN_SECONDS", 0.3)
    run = Run(["sleep", "1000"], stop_grace=0.1)

    def hang(job: Mapping[str, Any]) -> None:
        os.kill(parent_of(job["pid"]), signal.SIGSTOP)
        run.runner.stop()

    assert run.runner.run(INFO, hang).reason == "NotEnded"
    os.kill(guards_of(os.getpid())[0], signal.SIGCONT)
    eventually(lambda: (run.runner.wait() or Exit()).signal == "SIGTERM")


def test_a_progress_bar_is_not_a_flood() -> None:
    run = Run("for i in $(seq 1 20000); do printf '\\r%s' $i; done; echo; echo end")
    run.run()
    assert run.stdout[-2:] == ["20000", "end"]
    assert len(run.stdout) < 50


@needs_proc
def test_100_mb_pass_in_constant_memory() -> None:
    """Measured in a separate process, by its peak memory."""
    script = f"""
        import resource, sys, os
        from tests.unit.live_processes import Run
        total = 0
        def write_line(stream, line):
            global total
            total += len(line)
        Run(["true"], write_line=write_line).run()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Run("head -c 50000000 /dev/zero | tr '\\\\0' x", write_line=write_line).run()
        Run("yes {"y" * 99} | head -c 50000000", write_line=write_line).run()
        print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    total, grown_mb = map(int, output.split())
    assert total == 50_000_000 + 50_000_000 * 99 // 100
    assert grown_mb < 16


def test_stop_before_run_starts_nothing() -> None:
    run = Run(["true"])
    run.runner.stop()
    assert run.run().reason == "Stopped"
    assert run.launched == []
    assert run.runner.wait() is None


def test_stop_after_the_end_does_nothing() -> None:
    run = Run(["true"])
    run.run()
    run.runner.stop()
    assert run.runner.wait() == Exit(code=0)


def test_stop_out_of_on_launched() -> None:
    run = Run(["sleep", "1000"])
    assert run.runner.run(INFO, lambda _: run.runner.stop()).signal == "SIGTERM"


def test_stop_from_another_thread() -> None:
    run = Run("trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done")

    def stop_when_ready() -> None:
        eventually(lambda: run.stdout)
        run.runner.stop()
        run.runner.stop()

    thread = threading.Thread(target=stop_when_ready)
    thread.start()
    assert run.run().code == 4
    assert run.stdout == ["ready", "bye"]
    thread.join()


def test_stop_kills_after_the_grace() -> None:
    run = Run(STUBBORN + "; true", stop_grace=0.5)
    started_at = time.monotonic()
    threading.Timer(0.5, run.runner.stop).start()
    assert run.run().signal == "SIGKILL"
    assert time.monotonic() - started_at >= 1


def test_a_handler_may_stop_and_wait(on_alarm: Callable[[Callable[[], None], float], None]) -> None:
    """The handler reads what the job prints while it ends."""
    run = Run("trap 'seq 1 100000; exit 4' TERM; echo ready; while :; do sleep 0.05; done")
    seen: list[Exit | None] = []

    def handle() -> None:
        run.runner.stop()
        seen.append(run.runner.wait(timeout_seconds=30))

    on_alarm(handle, 0.5)
    exit_ = run.run()
    assert exit_.code == 4
    assert seen == [exit_]
    assert run.stdout == ["ready", *map(str, range(1, 100_001))]


def test_a_handler_gets_no_answer_when_time_is_up(
    on_alarm: Callable[[Callable[[], None], float], None],
) -> None:
    run = Run(STUBBORN + "; true", stop_grace=2)
    seen: list[Exit | None] = []

    def handle() -> None:
        run.runner.stop()
        seen.append(run.runner.wait(timeout_seconds=0.2))

    on_alarm(handle, 0.5)
    assert run.run().signal == "SIGKILL"
    assert seen == [None]


def test_a_handler_that_interrupts_write_line_loses_nothing(
    on_alarm: Callable[[Callable[[], None], float], None],
) -> None:
    """Whatever it interrupts: with output in full flow, lines come whole, in order and not within another."""
    lock = threading.Lock()  # as loggers have them: a second write within the first would hang
    lines: list[str] = []

    def write_line(_stream: str, line: str) -> None:
        assert lock.acquire(timeout=5)
        lines.append(line)
        lock.release()

    run = Run("trap 'seq 1 200000; echo end; exit 0' TERM; seq 1 1000000", write_line=write_line)

    def handle() -> None:
        run.runner.wait(timeout_seconds=0.01)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    on_alarm(handle, 0.05)
    assert run.run().is_clean
    assert lines == list(map(str, range(1, 1_000_001)))


class OutOfTime(BaseException):
    """As Airflow raises it from a signal handler when execution_timeout is over."""


def test_an_exception_from_a_handler_propagates_to_the_caller(
    on_alarm: Callable[[Callable[[], None], float], None],
) -> None:
    """They tell the server why before they stop the job."""
    run = Run("trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done")

    def handle() -> None:
        if not run.stdout:
            return on_alarm(handle, 0.05)
        raise OutOfTime

    on_alarm(handle, 0.05)
    with pytest.raises(OutOfTime):
        run.run()
    assert run.runner.wait(timeout_seconds=0.5) is None
    assert run.stdout == ["ready"]
    run.runner.stop()
    exit_ = run.runner.wait()
    assert exit_ is not None
    assert exit_.code == 4
    assert run.stdout == ["ready", "bye"]


# Python's own words about what was interrupted in the making: the process is held fast, the file is closed.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("seconds", [0.001, 0.002, 0.004, 0.008, 0.016, 0.024, 0.032])
def test_an_exception_while_it_is_being_started_leaves_nothing(
    on_alarm: Callable[[Callable[[], None], float], None], seconds: float
) -> None:
    run = Run(["sleep", "1000"])

    def handle() -> None:
        raise OutOfTime

    def start() -> None:
        on_alarm(handle, seconds)  # it may go off before the next line
        run.run()

    with pytest.raises(OutOfTime):
        start()
    run.runner.stop()
    run.runner.wait()
    eventually(lambda: not guards_of(os.getpid()))
    gc.collect()  # the warnings are of this test


def test_a_job_whose_lines_cannot_be_written_can_be_stopped() -> None:
    def write_line(_stream: str, _line: str) -> None:
        raise BrokenPipeError

    run = Run(["sh", "-c", "echo; exec sleep 1000"], write_line=write_line)
    with pytest.raises(BrokenPipeError):
        run.run()
    run.runner.stop()
    exit_ = run.runner.wait()
    assert exit_ is not None
    assert exit_.signal == "SIGTERM"


@needs_proc
def test_killing_the_guard_kills_the_jobs_group(tmp_path: Path) -> None:
    run = Run(f"sleep 1000 & echo $! > {tmp_path}/pid; wait")

    def kill_guard(job: Mapping[str, Any]) -> None:
        run.launched.append(job)
        read_pid(tmp_path / "pid")
        os.kill(parent_of(job["pid"]), signal.SIGKILL)

    exit_ = run.runner.run(INFO, kill_guard)
    assert (exit_.signal, exit_.reason) == ("SIGKILL", "GuardLost")
    eventually(lambda: all_gone([run.launched[0]["pid"], read_pid(tmp_path / "pid")]))


@needs_proc
def test_an_outsider_that_holds_the_pipes_is_not_waited_for(tmp_path: Path) -> None:
    """Its descendant is let go by a job that passes its stdout on, as through ``sudo`` or a daemon."""
    run = Run(f"setsid sleep 1000 & echo $! > {tmp_path}/pid; printf end", completion=Completion.REPORT)
    assert run.run() == Exit(code=0, tail=("end",))
    assert is_alive(read_pid(tmp_path / "pid"))
    run.runner.stop()
    assert run.runner.wait() == Exit(code=0, tail=("end",))
    assert not is_alive(read_pid(tmp_path / "pid"))


@needs_proc
def test_released_work_lives_on(tmp_path: Path) -> None:
    run = Run(f"setsid sleep 1000 >/dev/null 2>&1 & echo $! > {tmp_path}/pid", completion=Completion.REPORT)
    run.run()
    run.runner.release()
    run.runner.stop()
    pid = read_pid(tmp_path / "pid")
    try:
        time.sleep(0.5)
        assert is_alive(pid)
        assert guards_of(os.getpid()) == []
    finally:
        kill_all([pid])


def test_wait_reads_what_submitted_work_writes() -> None:
    run = Run("(sleep 0.5; seq 1 50000) &", completion=Completion.REPORT)
    run.run()
    assert run.runner.wait(timeout_seconds=30) == Exit(code=0, tail=tuple(map(str, range(49_981, 50_001))))
    assert run.stdout == list(map(str, range(1, 50_001)))


@needs_proc
def test_no_secret_is_on_a_command_line() -> None:
    seen: list[bytes] = []

    def look(job: Mapping[str, Any]) -> None:
        pids = all_pids()
        for pid in pids:
            try:
                seen.append(Path(f"/proc/{pid}/cmdline").read_bytes())
            except OSError:
                continue
        guard_environ = Path(f"/proc/{parent_of(job['pid'])}/environ").read_bytes()
        assert SECRET.encode() not in guard_environ
        run.runner.stop()

    run = Run(["sleep", "1000"])
    run.runner.run(INFO, look)
    assert any(INFO.job_id.encode() in cmdline for cmdline in seen)  # the guard's was looked at
    assert not any(SECRET.encode() in cmdline for cmdline in seen)


def test_the_guard_leaves_no_descriptor_open() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    Run(["true"]).run()
    gc.collect()  # or what other tests left open is closed meanwhile
    before = os.dup(0)
    os.close(before)
    for _ in range(5):
        Run(["true"]).run()
    after = os.dup(0)
    os.close(after)
    assert after <= before < limit


def test_its_own_secret_is_masked_in_its_output() -> None:
    run = Run('echo "secret: $JOB_SECRET_KEY."; exit 3')
    assert list(run.run().tail) == ["secret: ***."]
    assert run.stdout == ["secret: ***."]


def test_what_airflow_masks_is_masked_in_its_output(mask: Callable[[str], None]) -> None:
    mask("the password")
    environ = {**drop_airflow_variables(os.environ), "PASSWORD": "the password"}
    run = Run('echo "it is $PASSWORD."; exit 3', environ=environ)
    assert list(run.run().tail) == ["it is ***."]
    assert run.stdout == ["it is ***."]


def test_a_long_line_is_cut_around_what_is_masked(mask: Callable[[str], None]) -> None:
    mask("the password")
    run = Run("printf '%065530d' 0; sleep 0.2; printf 'the pass'; sleep 0.2; printf 'word%09000d' 0")
    run.run()
    assert "".join(run.stdout) == "0" * 65530 + "***" + "0" * 9000
