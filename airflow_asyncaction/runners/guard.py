# SPDX-License-Identifier: Apache-2.0
"""Guard: runs a job as its child process, and ends all of it when the task ends or dies.

``LocalRunner`` starts it as a script in a session of its own, so that signals to the task's process group do
not reach it. The package never imports it, and it imports nothing of the package: it must start in
milliseconds.

How it works: standard input carries one order (:class:`Order`), then single bytes, ``s`` (stop) and ``r``
(release). End of file means that the task process has died. The guard runs the job in a process group of its
own, adopts the processes that the job leaves behind (as child subreaper), and reports on a status pipe, line
by line:

    failed STAGE ERRNO      the job was not started; STAGE is fork, chdir or exec
    started PID             the command is executed
    exited CODE             the main process exited ...
    killed SIGNUM           ... or was killed by a signal
    done LEFT               no process is left, or they were released; LEFT processes outlived the main one

After the task process has died, the guard reads and discards the job's output. Otherwise SIGPIPE would kill a
job that writes something while it cleans up.

To end the job, the guard sends SIGTERM to the job's group and to each process that it is, or becomes, the
parent of. After the grace period it sends SIGKILL to the same, until no process is left. When the main
process exits, the processes that it left behind are ended likewise or, under ``keep``, watched until a stop
or a release.

What it does not do: a SIGKILL to the guard itself kills the main process too, but not its children. A process
of another user (sudo) cannot be signalled. On systems without Linux's prctl (macOS) a process that left the
job's group escapes.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType

SETTLE_SECONDS = 1.0
"""How long processes left behind may take to exit by themselves: ``tee`` must write the last lines."""

PARENT_CHECK_SECONDS = 5.0
"""How often to check whether the parent has died, in case a fork of it holds standard input open."""

TICK_SECONDS = 0.1
"""How often to poll for adopted processes while ending the job: the kernel does not announce them."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}


class Order:
    """What to run. Encoded as its length in decimal, a newline, and its fields joined by NUL.

    The fields: grace period in seconds; ``keep`` or empty; working directory, or empty for that of the guard;
    number of words; the words of the command; the environment as NAME=VALUE.
    """

    def __init__(self, payload: bytes) -> None:
        grace, keep, self.cwd, count, *rest = payload.split(b"\0")
        self.grace_seconds = float(grace)
        self.keep = keep == b"keep"
        self.command = rest[: int(count)]
        pairs = (field.partition(b"=") for field in rest[int(count) :])
        self.environ = {name: value for name, _, value in pairs}


def read_order(fd: int) -> tuple[Order, bytes] | None:
    """Return the order and the control bytes that followed it; ``None`` if the parent died first."""
    data = b""
    while True:
        length, newline, payload = data.partition(b"\n")
        if newline and len(payload) >= int(length):
            return Order(payload[: int(length)]), payload[int(length) :]
        chunk = os.read(fd, 65536)
        if not chunk:
            return None
        data += chunk


class Guard:
    """Runs one job, and ends all of its processes."""

    def __init__(self, order: Order, status_fd: int, output_fds: Iterable[int], parent: int) -> None:
        self._order = order
        self._status_fd = status_fd
        self._output_fds = set(output_fds)
        self._parent = parent
        self._own_pid = os.getpid()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._adopts = self._libc is not None and self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        self._wake_fd = self._handle_signals()
        self._lifeline_open = True
        self._stop_requested = False
        self._pid = 0
        self._main_runs = False
        self._term_at: float | None = None
        self._kill_at: float | None = None
        self._kill_tick_seconds = 0.01
        self._group_termed = False
        self._termed: set[int] = set()
        self._left_behind = False
        self._left = 0

    def run(self, control: bytes) -> None:
        """Run the job until it is done.

        :param control: control bytes that followed the order
        """
        if not self._launch():
            return
        done = self._obey(control)
        while not done:
            done = self._reap() or self._step()
        self._write_status(f"done {self._left}")

    def _handle_signals(self) -> int:
        """Let signals wake the loop. SIGTERM, SIGINT and SIGHUP request a stop."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, *STOP_SIGNALS):
            signal.signal(signum, self._on_signal)
        return read_fd

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self._stop_requested = self._stop_requested or signum in STOP_SIGNALS

    def _launch(self) -> bool:
        read_fd, write_fd = os.pipe()  # closed by exec: end of file means success
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._pid = os.fork()
        except OSError as error:
            self._write_status(f"failed fork {error.errno}")
            return False
        if self._pid == 0:
            self._become_job(write_fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(write_fd)
        _attempt(os.setpgid, self._pid, self._pid)  # in both processes, whichever is first
        failure = os.read(read_fd, 64)
        os.close(read_fd)
        self._release_output()
        if failure:
            os.waitpid(self._pid, 0)
            self._write_status(f"failed {failure.decode()}")
            return False
        self._main_runs = True
        self._write_status(f"started {self._pid}")
        return True

    def _become_job(self, failure_fd: int) -> None:
        """Execute the command, in the forked child. Never returns."""
        stage = "exec"
        try:
            os.setpgid(0, 0)
            if self._libc is not None:
                self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self._own_pid:
                os._exit(127)  # the guard died before prctl took effect
            for signum in signal.valid_signals() - UNCATCHABLE:  # a background worker ignores SIGINT
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            stage = "chdir"
            if self._order.cwd:
                os.chdir(self._order.cwd)
            stage = "exec"
            os.execvpe(self._order.command[0], self._order.command, self._order.environ)
        except OSError as error:
            os.write(failure_fd, f"{stage} {error.errno}".encode())
        finally:
            os._exit(127)

    def _release_output(self) -> None:
        """Redirect stdout and stderr, so that the pipes end with the job, and leave the working directory."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.chdir("/")

    def _reap(self) -> bool:
        """Reap processes that have ended; return whether none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return self._adopts or not self._group_exists()
            if pid == 0:
                return False
            if pid == self._pid and self._main_runs:
                self._main_ended(os.waitstatus_to_exitcode(status))

    def _main_ended(self, code: int) -> None:
        self._main_runs = False
        self._write_status(f"exited {code}" if code >= 0 else f"killed {-code}")
        if self._term_at is None and not self._order.keep:
            self._left_behind = True
            self._end(SETTLE_SECONDS)

    def _end(self, after_seconds: float = 0.0) -> None:
        """Begin to end all processes after a delay, unless that begins earlier anyway."""
        term_at = time.monotonic() + after_seconds
        if self._term_at is None or term_at < self._term_at:
            self._term_at = term_at
            self._kill_at = term_at + self._order.grace_seconds

    def _step(self) -> bool:
        """Send signals that are due, and wait for events; return whether to exit now."""
        self._signal_all()
        ready = self._wait(self._timeout())
        if self._wake_fd in ready:
            os.read(self._wake_fd, 4096)
        if self._stop_requested:
            self._end()
        for fd in self._output_fds & ready:
            self._drop_output(fd)
        control = os.read(0, 64) if 0 in ready else None
        if control == b"" or os.getppid() != self._parent:
            self._lifeline_open = False
            self._end()
        return bool(control) and self._obey(control or b"")

    def _wait(self, timeout_seconds: float) -> set[int]:
        """Return the descriptors that are ready."""
        poll = select.poll()
        for fd in (self._wake_fd, *([0] if self._lifeline_open else self._output_fds)):
            poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(timeout_seconds * 1000)}

    def _drop_output(self, fd: int) -> None:
        try:
            ended = not os.read(fd, 65536)
        except BlockingIOError:
            return
        if ended:
            self._output_fds.discard(fd)

    def _obey(self, control: bytes) -> bool:
        """Execute control bytes; return whether to exit now."""
        if b"s" in control:
            self._end()
        return b"r" in control and self._order.keep and not self._main_runs and self._term_at is None

    def _timeout(self) -> float:
        now = time.monotonic()
        if self._term_at is None or self._kill_at is None:
            return PARENT_CHECK_SECONDS
        if now < self._term_at:
            return min(self._term_at - now, PARENT_CHECK_SECONDS)
        if now < self._kill_at:
            return min(self._kill_at - now, TICK_SECONDS)
        self._kill_tick_seconds = min(self._kill_tick_seconds * 2, 1.0)
        return self._kill_tick_seconds

    def _signal_all(self) -> None:
        """Send SIGTERM to each process once, or SIGKILL after the grace period."""
        now = time.monotonic()
        if self._term_at is None or self._kill_at is None or now < self._term_at:
            return
        killing = now >= self._kill_at
        signum = signal.SIGKILL if killing else signal.SIGTERM
        children = self._children()
        members = {pid for pid in children if _process_group(pid) == self._pid}
        if self._left_behind:
            self._left = max(self._left, len(children))
        # The id of a group with members is not reused; without members it may be another group's.
        if self._main_runs or members or not self._adopts:
            if killing or not self._group_termed:
                _attempt(os.killpg, self._pid, signum)
            self._group_termed = True
        for pid in children - members:
            if killing or pid not in self._termed:
                _attempt(os.kill, pid, signum)
            self._termed.add(pid)

    def _children(self) -> set[int]:
        """Return the child processes of this one, including zombies."""
        if not self._adopts:
            return set()
        try:
            with open(f"/proc/self/task/{self._own_pid}/children", "rb") as file:
                return {int(pid) for pid in file.read().split()}
        except OSError:  # the kernel was built without this file
            return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_child(pid)}

    def _group_exists(self) -> bool:
        try:
            os.killpg(self._pid, 0)
        except OSError:
            return False
        return True

    def _write_status(self, line: str) -> None:
        try:  # noqa: SIM105 - importing contextlib takes time
            os.write(self._status_fd, line.encode() + b"\n")
        except OSError:  # the reader is gone
            pass


def _attempt(call: Callable[[int, int], None], target: int, argument: int) -> None:
    """Call a function whose target may have ended, or belong to another user."""
    try:  # noqa: SIM105
        call(target, argument)
    except OSError:
        pass


def _process_group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _is_child(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1]) == os.getpid()
    except OSError:
        return False


def main() -> None:
    """Run as ``guard.py STATUS_FD STDOUT_FD STDERR_FD LABEL``.

    STDOUT_FD and STDERR_FD are the read ends of pipes. The label (the job's id) is shown by ``ps``.
    """
    parent = os.getppid()
    status_fd, *output_fds = map(int, sys.argv[1:4])
    for fd in (status_fd, *output_fds):
        os.set_inheritable(fd, False)
    received = read_order(0)
    if received is not None:
        order, control = received
        Guard(order, status_fd, output_fds, parent).run(control)


if __name__ == "__main__":
    main()
