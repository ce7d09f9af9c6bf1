# SPDX-License-Identifier: Apache-2.0
"""Guard: runs as a separate process, and is controlled as the task process does."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from airflow_asyncaction.runners.guard_process import GUARD, GuardStatus, encode_order, parse_status
from tests.unit.live_processes import all_gone, eventually, is_alive, kill_all, needs_proc, read_pid

pytestmark = needs_proc


class Guarded:
    """A guard whose lifeline and status pipe the test holds."""

    def __init__(self) -> None:
        status_fd, guards_status_fd = os.pipe()
        output_fd, jobs_output_fd = os.pipe()
        fds = (guards_status_fd, output_fd, output_fd)
        self.status = os.fdopen(status_fd, "rb", buffering=0)
        self.stdout = os.fdopen(output_fd, "rb", buffering=0)
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, *map(str, fds), "test"],
            stdin=subprocess.PIPE,
            stdout=jobs_output_fd,
            stderr=jobs_output_fd,
            bufsize=0,
            pass_fds=set(fds),
            start_new_session=True,
        )
        os.close(guards_status_fd)
        os.close(jobs_output_fd)
        self.heard = b""

    def give(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        grace_seconds: float = 30,
        keep: bool = False,
    ) -> None:
        environ = {"PATH": os.environ["PATH"]} if environ is None else environ
        self.send(
            encode_order(command=command, environ=environ, cwd=None, grace_seconds=grace_seconds, keep=keep)
        )

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # it has ended, or is to end
            while data:
                data = data[self.process.stdin.write(data) :]

    def hear(self, word: bytes, seconds: float = 30) -> GuardStatus:
        """Return the output once it contains ``word``."""
        give_up_at = time.monotonic() + seconds
        while b"\n" + word not in b"\n" + self.heard:
            left = give_up_at - time.monotonic()
            assert select.select([self.status], [], [], max(left, 0))[0], f"said only {self.heard!r}"
            chunk = self.status.read(4096)
            assert chunk, f"said only {self.heard!r}"
            self.heard += chunk
        return parse_status(self.heard)

    def close_lifeline(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> bytes:
        """Have all ended and return the output."""
        if not self.stdout.closed:
            self.send(b"s")
            self.output = self.stdout.read()
            self.stdout.close()
        self.close_lifeline()
        self.process.wait(timeout=60)
        self.status.close()
        return self.output


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    guarded = Guarded()
    yield guarded
    guarded.end()


def test_an_exit_code_is_reported(guarded: Guarded) -> None:
    guarded.give(["sh", "-c", "exit 7"])
    said = guarded.hear(b"done")
    assert said == GuardStatus(pid=said.pid, code=7, left=0)
    assert said.pid
    assert guarded.process.wait(timeout=30) == 0


def test_a_signal_is_reported(guarded: Guarded) -> None:
    guarded.give(["sh", "-c", "kill -USR2 $$"])
    assert guarded.hear(b"done").signum == signal.SIGUSR2


def test_a_failed_exec_is_reported(guarded: Guarded) -> None:
    guarded.give(["/no/such/program"])
    assert guarded.hear(b"failed").failure == ("exec", 2)


def test_a_job_gets_its_own_environment_and_no_other(guarded: Guarded) -> None:
    guarded.give(["/usr/bin/env"], environ={"A": "1", "B": "é = \n", "EMPTY": ""})
    guarded.hear(b"done")
    assert guarded.end() == "A=1\nB=é = \n\nEMPTY=\n".encode()


def test_a_large_order_arrives_whole(guarded: Guarded) -> None:
    environ = {f"V{number}": "x" * 100_000 for number in range(10)}
    guarded.give(["/bin/sh", "-c", "echo ${#V0} ${#V9}"], environ=environ)
    guarded.hear(b"done")
    assert guarded.end() == b"100000 100000\n"


@contextmanager
def in_the_background() -> Iterator[None]:
    """Ignore and block signals meanwhile, as a shell does for commands in the background, and more."""
    ignored = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_job_has_an_empty_stdin_no_other_files_and_default_signals() -> None:
    with in_the_background():
        guarded = Guarded()
    look = (
        "import os, signal\n"
        "print(os.readlink('/proc/self/fd/0'), os.read(0, 1))\n"
        "print([fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}')])\n"
        "for line in open('/proc/self/status'):\n"
        "    if line.startswith(('SigBlk', 'SigIgn')): print(int(line.split()[1], 16) & 0x7fffffff)\n"
        "print(os.getpgid(0) == os.getpid())\n"
    )
    script = f'exec {sys.executable} -I -S -c "$LOOK"'
    guarded.give(["sh", "-c", script], environ={"LOOK": look, "PATH": os.environ["PATH"]})
    guarded.hear(b"done")
    # Python itself ignores SIGPIPE (13) and SIGXFSZ (25). Not looked at: 32 and up, the C library's own.
    ignored_by_python = 1 << 12 | 1 << 24
    assert guarded.end().decode().splitlines() == [
        "/dev/null b''",
        "[]",
        "0",
        str(ignored_by_python),
        "True",
    ]


def test_nothing_is_started_if_the_parent_dies_within_the_order(guarded: Guarded, tmp_path: Path) -> None:
    whole = encode_order(
        command=["touch", str(tmp_path / "x")], environ={}, cwd=None, grace_seconds=1, keep=False
    )
    guarded.send(whole[:-1])
    guarded.close_lifeline()
    assert guarded.process.wait(timeout=30) == 0
    assert not (tmp_path / "x").exists()


def test_a_job_may_write_while_it_cleans_up_after_its_task_has_died(guarded: Guarded, tmp_path: Path) -> None:
    cleaning = f"head -c 1000000 /dev/zero && echo saved > {tmp_path}/saved; exit 5"
    guarded.give(["sh", "-c", f"trap '{cleaning}' TERM; echo ready; while :; do sleep 0.05; done"])
    assert guarded.stdout.read(6) == b"ready\n"
    guarded.stdout.close()
    guarded.close_lifeline()
    assert guarded.hear(b"done").code == 5
    assert (tmp_path / "saved").read_text() == "saved\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_guard_stops_the_job_with_its_grace(guarded: Guarded, signum: signal.Signals) -> None:
    guarded.give(
        ["sh", "-c", "trap 'echo cleaned up; exit 5' TERM; echo ready; while :; do sleep 0.05; done"]
    )
    assert guarded.stdout.read(6) == b"ready\n"
    guarded.process.send_signal(signum)
    assert guarded.hear(b"done").code == 5
    assert guarded.end().endswith(b"cleaned up\n")


def test_killing_the_guard_kills_the_job(guarded: Guarded) -> None:
    guarded.give(["sleep", "1000"])
    pid = guarded.hear(b"started").pid
    assert pid is not None
    guarded.process.kill()
    eventually(lambda: not is_alive(pid))


def test_what_the_job_leaves_behind_may_finish_in_a_moment(guarded: Guarded) -> None:
    guarded.give(["sh", "-c", "(sleep 0.3; echo last words) & exit 0"])
    said = guarded.hear(b"done")
    assert (said.code, said.left) == (0, 0)
    assert guarded.end() == b"last words\n"


def test_what_the_job_leaves_behind_is_ended(guarded: Guarded, tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/a; setsid sleep 1000 & echo $! > {tmp_path}/b; exit 3"
    guarded.give(["sh", "-c", script])
    said = guarded.hear(b"done")
    assert (said.code, said.left) == (3, 2)
    assert all_gone([read_pid(tmp_path / "a"), read_pid(tmp_path / "b")])


def test_what_ignores_sigterm_is_killed_after_the_grace(guarded: Guarded) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    script = f'(setsid sh -c "{stubborn}") & {stubborn}'
    guarded.give(["sh", "-c", script], grace_seconds=1)
    assert [guarded.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
    asked_at = time.monotonic()
    guarded.send(b"s")
    said = guarded.hear(b"done")
    assert said.signum == signal.SIGKILL
    assert time.monotonic() - asked_at >= 1


def test_a_fork_bomb_of_stubborn_orphans_is_ended(guarded: Guarded) -> None:
    bomb = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(40):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(1000)\n"
        "        os._exit(0)\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    guarded.give([sys.executable, "-I", "-S", "-c", bomb], grace_seconds=0.5)
    assert guarded.stdout.read(6) == b"ready\n"
    guarded.send(b"s")
    guarded.hear(b"done")
    assert guarded.end() == b""  # no process holds the pipe any more


def test_kept_work_goes_on_until_a_stop(guarded: Guarded, tmp_path: Path) -> None:
    guarded.give(["sh", "-c", f"setsid sleep 1000 & echo $! > {tmp_path}/pid"], keep=True)
    assert guarded.hear(b"exited").code == 0
    pid = read_pid(tmp_path / "pid")
    time.sleep(0.3)
    assert is_alive(pid)
    guarded.send(b"s")
    guarded.hear(b"done")
    assert not is_alive(pid)


def test_kept_work_lives_on_after_a_release(guarded: Guarded, tmp_path: Path) -> None:
    script = f"setsid sleep 1000 >/dev/null 2>&1 & echo $! > {tmp_path}/pid"
    guarded.give(["sh", "-c", script], keep=True)
    guarded.hear(b"exited")
    pid = read_pid(tmp_path / "pid")
    try:
        guarded.send(b"r")
        guarded.hear(b"done")
        assert guarded.process.wait(timeout=30) == 0
        assert is_alive(pid)
    finally:
        kill_all([pid])


def test_a_release_means_nothing_to_other_jobs(guarded: Guarded) -> None:
    guarded.give(["sleep", "1000"])
    pid = guarded.hear(b"started").pid
    assert pid is not None
    guarded.send(b"r")
    guarded.close_lifeline()
    assert guarded.hear(b"done").signum == signal.SIGTERM
    assert not is_alive(pid)


def test_an_incomplete_line_is_not_parsed_as_a_message() -> None:
    assert parse_status(b"started 12\nexited 1") == GuardStatus(pid=12)
