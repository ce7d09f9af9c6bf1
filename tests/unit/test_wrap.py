# SPDX-License-Identifier: Apache-2.0
"""``run -- CMD`` with real programs: transparent for the program and its caller."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from airflow_asyncaction.job.outgoing_reports import MAX_LOG_LINES
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.reports import ReportedStatus
from airflow_asyncaction.testing import JobServer, TestedJob

ROOT = Path(__file__).parent.parent.parent
RUN = (sys.executable, "-m", "airflow_asyncaction.job", "run")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}
GENEROUS_SECONDS = 60.0


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    return {**CLEAN, "PYTHONPATH": str(ROOT), **environ}


def run(
    tested: TestedJob | None, *command: str, options: tuple[str, ...] = (), stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*RUN, *options, "--", *command],
        env=environ_of(tested.environ if tested else {}),
        input=stdin,
        capture_output=True,
        timeout=GENEROUS_SECONDS * 2,
        check=False,
    )


def start(
    tested: TestedJob, *command: str, options: tuple[str, ...] = ("--heartbeat-interval", "0.05")
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*RUN, "--report-timeout", "30", *options, "--", *command],
        env=environ_of(tested.environ),
        stdout=subprocess.PIPE,
    )


def finish(wrapper: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    output, _ = wrapper.communicate(timeout=GENEROUS_SECONDS)
    return wrapper.returncode, output


def wait_for_line(tested: TestedJob, text: str) -> None:
    tested.wait_until(lambda tested: any(text == line.message for line in tested.logs))


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + GENEROUS_SECONDS
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_success(tested: TestedJob) -> None:
    done = run(tested, "sh", "-c", "echo out; echo err >&2; cat", stdin=b"from stdin")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\nfrom stdin", b"err\n")
    assert (tested.action.state, tested.action.reported) == (State.SUCCESS, ReportedStatus.SUCCESS)
    assert {(line.message, line.stream) for line in tested.logs} == {
        ("out", "stdout"),
        ("from stdin", "stdout"),
        ("err", "stderr"),
    }
    assert tested.reports[0].status is ReportedStatus.RUNNING
    assert '"program":"sh"' in (tested.reports[0].agent or "")
    assert tested.action.results is None


def test_the_programs_exit_code_is_kept_and_its_last_lines_explain(tested: TestedJob) -> None:
    done = run(tested, "sh", "-c", "seq 30; exit 3")
    assert done.returncode == 3
    assert (tested.action.state, tested.action.error_name) == (State.ERROR, "ExitCode")
    lines = (tested.action.error_message or "").splitlines()
    assert lines == ["The program exited with code 3", *map(str, range(11, 31))]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGABRT", "SIGSEGV"])
def test_a_program_killed_by_a_signal_takes_the_wrapper_with_it(tested: TestedJob, name: str) -> None:
    number = signal.Signals[name]
    done = run(tested, "sh", "-c", f"ulimit -c 0; echo bye; kill -{number.value} $$")
    assert done.returncode == -number
    assert (tested.action.error_name, tested.action.error_message) == (
        "Signal",
        f"The program was killed by {name}\nbye",
    )


@pytest.mark.parametrize(
    ("program", "code", "name"),
    [("/no/such/program", 127, "NotFound"), ("no-such-program", 127, "NotFound"), ("/", 126, "CannotRun")],
)
@pytest.mark.parametrize("has_server", [True, False])
def test_a_program_that_cannot_be_started(
    server: JobServer, program: str, code: int, name: str, has_server: bool
) -> None:
    tested = server.new_job() if has_server else None
    done = run(tested, program)
    assert done.returncode == code
    assert program.encode() in done.stderr
    if tested is not None:
        assert tested.action.error_name == name


def test_a_script_without_an_interpreter_line_cannot_be_run(tested: TestedJob, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"\x01\x02\x03")
    script.chmod(0o755)
    assert run(tested, str(script)).returncode == 126


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "--"], ["run", "--stop-grace", "x", "--", "true"], []]
)
def test_wrong_usage_is_125_and_reported(tested: TestedJob, arguments: list[str]) -> None:
    command = [*RUN[:-1], *arguments]
    done = subprocess.run(command, env=environ_of(tested.environ), capture_output=True, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith(b"usage: ")
    assert tested.action.error_name == "WrapperFailed"


@pytest.mark.parametrize("change", [{"JOB_ID": "1"}, {"JOB_HOOK": "http://h:x"}, {"JOB_SECRET_KEY": ""}])
def test_wrong_variables_are_125_and_no_secret_is_said(tested: TestedJob, change: dict[str, str]) -> None:
    done = subprocess.run(
        [*RUN, "--", "echo", "never"],
        env=environ_of({**tested.environ, **change}),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"JOB_" in done.stderr
    assert tested.info.secret_key.encode() not in done.stderr


def test_outside_airflow_the_program_just_runs() -> None:
    done = run(None, "sh", "-c", 'cat; echo "$0" "$@"; exit 7', "--", "-- a", stdin=b"in ")
    assert (done.returncode, done.stdout) == (7, b"in -- -- a\n")
    (line,) = done.stderr.splitlines()
    assert b"No JOB_ variables" in line
    assert b"nothing is reported" in line
    assert run(None, "sh", "-c", "kill -9 $$").returncode == -9


def test_binary_output_passes_unchanged(tested: TestedJob, tmp_path: Path) -> None:
    content = os.urandom(300_000) + b"\r\n\r\xf0\x9f"
    (tmp_path / "content").write_bytes(content)
    done = run(tested, "cat", str(tmp_path / "content"))
    assert done.stdout == content
    assert tested.action.state is State.SUCCESS


def test_progress_bars_and_a_last_line_without_a_newline(tested: TestedJob) -> None:
    done = run(tested, "printf", "1%%\r50%%\r100%%\\nno newline")
    assert done.stdout == b"1%\r50%\r100%\nno newline"
    assert [line.message for line in tested.logs] == ["100%", "no newline"]


def peak_rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "program",
    ["head -c 100000000 /dev/zero", "yes $(printf %0999d 0) | head -c 100000000"],
    ids=["no newline", "lines"],
)
@pytest.mark.parametrize("is_away", [False, True], ids=["server", "no server"])
def test_100_mb_pass_through_in_constant_memory(
    server: JobServer, tested: TestedJob, program: str, is_away: bool
) -> None:
    if is_away:
        server.go_away()
    wrapper = start(tested, "sh", "-c", f"{program}; exec >&-; exec sleep 600", options=())
    assert wrapper.stdout is not None
    digest, size = hashlib.sha256(), 0
    while size < 100_000_000:
        chunk = wrapper.stdout.read1(1 << 20)  # type: ignore[attr-defined]
        size += len(chunk)
        digest.update(chunk)
    peak = peak_rss_bytes(wrapper.pid)
    wrapper.kill()
    finish(wrapper)
    assert size == 100_000_000
    expected = b"0" * 999 + b"\n"
    assert (
        digest.digest()
        == (hashlib.sha256(bytes(size)) if "zero" in program else hashlib.sha256(expected * 100_000)).digest()
    )
    assert peak < 120_000_000


def test_while_the_server_is_away_output_passes_and_the_newest_lines_stay(
    server: JobServer, tested: TestedJob
) -> None:
    server.go_away()
    wrapper = start(tested, "seq", str(MAX_LOG_LINES * 3))
    assert wrapper.stdout is not None
    output = b"".join(iter(lambda: wrapper.stdout.read(65536), b""))  # type: ignore[union-attr]
    assert output.endswith(b"\n%d\n" % (MAX_LOG_LINES * 3))
    server.come_back()
    assert finish(wrapper)[0] == 0
    assert tested.action.state is State.SUCCESS
    messages = [line.message for line in tested.logs]
    assert messages[-1] == str(MAX_LOG_LINES * 3)
    assert sum("lines were dropped here" in message for message in messages) == 1
    assert MAX_LOG_LINES <= len(messages) <= MAX_LOG_LINES + 1001


def test_a_server_away_for_good_costs_one_line(server: JobServer, tested: TestedJob) -> None:
    server.go_away()
    done = run(tested, "sh", "-c", "echo out; exit 5", options=("--report-timeout", "0.2"))
    assert (done.returncode, done.stdout) == (5, b"out\n")
    (line,) = done.stderr.decode().splitlines()
    assert "The end could not be reported" in line


def test_a_server_error_on_the_end_does_not_lose_it(server: JobServer, tested: TestedJob) -> None:
    server.fail(2, containing=b'"SUCCESS"')
    done = run(tested, "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tested.action.state, tested.action.reported) == (State.SUCCESS, ReportedStatus.SUCCESS)


def test_stop_ends_the_group_and_is_reported(tested: TestedJob) -> None:
    wrapper = start(tested, "sh", "-c", "sleep 600 & echo up; wait")
    wait_for_line(tested, "up")
    tested.stop()
    code, _ = finish(wrapper)
    assert code == -signal.SIGTERM
    tested.exit(Exit(signal="SIGTERM"))
    assert (tested.action.state, tested.action.error_name) == (State.STOPPED, "Stopped")


def test_a_program_that_exits_with_0_after_a_stop_request_has_not_succeeded(tested: TestedJob) -> None:
    wrapper = start(tested, "sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
    wait_for_line(tested, "up")
    tested.stop()
    assert finish(wrapper)[0] == 0
    tested.exit(Exit(code=0))
    assert (tested.action.state, tested.action.error_name) == (State.STOPPED, "Stopped")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_the_help_says_what_happens(arguments: list[str]) -> None:
    done = subprocess.run([*RUN[:-1], *arguments], capture_output=True, text=True, check=True)
    said = " ".join(done.stdout.split())
    assert "If Airflow asked the job to stop, the end is ERROR with the name Stopped" in said
    assert "If the end cannot be reported, the wrapper prints an error" in said
    assert max(map(len, done.stdout.splitlines())) <= 110


STUBBORN = """
trap 'echo term' TERM
sh -c 'trap "" TERM; echo child $$; sleep 600' &
echo up
while :; do wait; done
"""


@pytest.mark.parametrize("verb", ["stop", "supersede"])
def test_what_does_not_stop_is_killed_with_all_it_started(tested: TestedJob, verb: str) -> None:
    wrapper = start(
        tested, "sh", "-c", STUBBORN, options=("--heartbeat-interval", "0.05", "--stop-grace", "0.5")
    )
    wait_for_line(tested, "up")
    tested.wait_until(lambda tested: any(line.message.startswith("child") for line in tested.logs))
    child = next(line.message.split()[1] for line in tested.logs if line.message.startswith("child"))
    getattr(tested, verb)()
    code, output = finish(wrapper)
    assert code == -signal.SIGKILL
    assert b"term\n" in output
    wait_until_dead(int(child))


def test_a_program_that_obeys_stop_keeps_its_exit_code(tested: TestedJob) -> None:
    wrapper = start(
        tested, "sh", "-c", "trap 'echo tidy; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    )
    wait_for_line(tested, "up")
    tested.stop()
    code, output = finish(wrapper)
    assert (code, output) == (9, b"up\ntidy\n")
    assert "tidy" in [line.message for line in tested.logs]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2"])
def test_signals_are_passed_on(tested: TestedJob, name: str) -> None:
    program = f"trap 'echo got {name}; exit 4' {name}; echo up; while :; do sleep 0.05; done"
    wrapper = start(tested, "bash", "-c", program)
    wait_for_line(tested, "up")
    wrapper.send_signal(signal.Signals[f"SIG{name}"])
    code, output = finish(wrapper)
    assert code == 4
    assert f"got {name}\n".encode() in output
    assert tested.action.error_name == "ExitCode"


IN_BACKGROUND = ("sh", "-c", 'trap "" INT QUIT HUP; exec "$@"', "sh")
"""Starts a command as a shell starts it with ``nohup ... &``."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_program_has_default_signals_even_in_the_background(tested: TestedJob) -> None:
    command = [*IN_BACKGROUND, *RUN, "--", "grep", "SigIgn", "/proc/self/status"]
    done = subprocess.run(command, env=environ_of(tested.environ), capture_output=True, check=True)
    ignored = int(done.stdout.split()[1], 16)
    bits = {name: bool(ignored >> signal.Signals[name] - 1 & 1) for name in ("SIGINT", "SIGQUIT", "SIGHUP")}
    assert bits == {"SIGINT": False, "SIGQUIT": False, "SIGHUP": True}  # nohup is somebody's wish


def test_a_wrapper_in_the_background_passes_sigint_on(tested: TestedJob) -> None:
    program = "trap 'echo got INT; exit 4' INT; echo up; while :; do sleep 0.05; done"
    command = [*IN_BACKGROUND, *RUN, "--heartbeat-interval", "0.05", "--", "bash", "-c", program]
    with subprocess.Popen(command, env=environ_of(tested.environ), stdout=subprocess.PIPE) as wrapper:
        wait_for_line(tested, "up")
        wrapper.send_signal(signal.SIGINT)
        assert finish(wrapper) == (4, b"up\ngot INT\n")


def test_a_signal_while_the_server_is_away_ends_the_wait_with_the_programs_code(
    server: JobServer, tested: TestedJob
) -> None:
    server.go_away()
    wrapper = start(tested, "sh", "-c", "echo up; exit 6")
    assert wrapper.stdout is not None
    assert wrapper.stdout.read() == b"up\n"  # its end is seen before its report is sent
    assert wrapper.poll() is None
    wrapper.terminate()
    assert finish(wrapper)[0] == 6


def test_a_program_may_have_any_name(tested: TestedJob, tmp_path: Path) -> None:
    program = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(program)).symlink_to("/bin/echo")
    assert run(tested, os.fsdecode(program), "hi").stdout == b"hi\n"
    assert tested.action.agent is not None
    assert tested.action.state is State.SUCCESS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG")
def test_a_killed_wrapper_leaves_no_program(tested: TestedJob) -> None:
    wrapper = start(tested, "sh", "-c", "echo $$; exec sleep 600")
    tested.wait_until(lambda tested: tested.logs)
    program = int(tested.logs[0].message)
    assert is_alive(program)
    wrapper.kill()
    finish(wrapper)
    wait_until_dead(program)


def test_heartbeats_come_while_the_program_is_silent(tested: TestedJob) -> None:
    wrapper = start(tested, "sleep", "600")
    tested.wait_until(lambda tested: sum(report.is_heartbeat for report in tested.reports) >= 3)
    wrapper.terminate()
    assert finish(wrapper)[0] == -signal.SIGTERM


OWN_REPORT = """
from airflow_asyncaction.job import open_job
with open_job() as job:
    job.{end}
print("afterthought")
raise SystemExit({code})
"""


@pytest.mark.parametrize(
    ("end", "code", "state", "error_name"),
    [
        ("result(41)", 0, State.SUCCESS, None),
        ("result(41)", 2, State.SUCCESS, None),  # the runner, who sees the exit, makes the mismatch of it
        ("fail('no', name='Mine')", 0, State.ERROR, "Mine"),
        ("fail('no', name='Mine')", 2, State.ERROR, "Mine"),
    ],
)
def test_what_the_program_reports_itself_stands(
    tested: TestedJob, end: str, code: int, state: State, error_name: str | None
) -> None:
    done = run(tested, sys.executable, "-c", OWN_REPORT.format(end=end, code=code))
    assert (done.returncode, done.stderr) == (code, b"")
    assert (tested.action.state, tested.action.error_name) == (state, error_name)
    assert [line.message for line in tested.logs] == ["afterthought"]


def test_a_child_left_behind_does_not_keep_the_wrapper(tested: TestedJob) -> None:
    wrapper = start(tested, "sh", "-c", "sleep 600 & echo $!")
    program = wrapper.stdout
    assert program is not None
    child = int(program.readline())
    try:
        assert wrapper.wait(GENEROUS_SECONDS) == 0
        assert tested.action.state is State.SUCCESS
    finally:
        os.kill(child, signal.SIGKILL)
        program.close()


def test_output_nobody_reads_ends_the_program_as_without_a_wrapper(tested: TestedJob) -> None:
    wrapper = start(tested, "yes")
    assert wrapper.stdout is not None
    wrapper.stdout.read(10)
    wrapper.stdout.close()
    assert wrapper.wait(GENEROUS_SECONDS) == -signal.SIGPIPE
    assert tested.action.error_name == "Signal"


def test_a_slow_reader_does_not_keep_the_job_from_stopping(tested: TestedJob) -> None:
    wrapper = start(tested, "yes")
    tested.wait_until(lambda tested: tested.reports)
    tested.stop()
    assert finish(wrapper)[0] == -signal.SIGTERM
