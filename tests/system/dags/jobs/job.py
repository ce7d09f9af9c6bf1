# SPDX-License-Identifier: Apache-2.0
"""A job whose behavior its command line selects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from airflow_asyncaction.job import open_job

FOLDER = Path(os.environ["ASYNCACTION_TEST_FOLDER"])
JOB_ID = os.environ["JOB_ID"]
PATIENCE_SECONDS = 300
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def success(code: str) -> None:
    with open_job() as job:
        job.result({"rows": 3})
    sys.exit(int(code))


def error(code: str) -> None:
    with open_job() as job:
        job.fail("the disk is full", "DiskFull")
    sys.exit(int(code))


def quiet(code: str) -> None:
    for number in range(1, 26):
        say(f"line {number}")
    sys.exit(int(code))


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def give_back() -> None:
    """Report the argument ``result`` as the result."""
    with open_job() as job:
        job.result(job.arguments["result"])


def give_odd() -> None:
    """Report JSON that neither PostgreSQL's JSONB nor msgpack accepts."""
    with open_job() as job:
        job.result({"text": "a\0b", "numbers": [2**70, 2**63], "plain": 1})


def take_arguments() -> None:
    """Report how the arguments were passed, and how many numbers they contain."""
    with open_job() as job:
        job.result({"in_environ": "JOB_ARGUMENTS" in os.environ, "count": len(job.arguments["numbers"])})


def meet(count: str) -> None:
    """Wait until a number of jobs wait here at the same time."""
    place = FOLDER / "meeting"
    place.mkdir(exist_ok=True)
    (place / JOB_ID).touch()
    wait_until(lambda: len(list(place.iterdir())) >= int(count))
    with open_job() as job:
        job.result(job.arguments["number"] * 2)


def obey() -> None:
    """Run until SIGTERM, then report the verb in the server's response."""

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        with open_job() as job:
            job.log("asked to stop")
            job.flush()
            mark("verb", "STOP" if job.is_stopping() else "none")
        sys.exit(143)

    signal.signal(signal.SIGTERM, on_sigterm)
    run_on()


def ignore() -> None:
    """Ignore SIGTERM, like a child in its own session."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
    mark("child", str(child.pid))
    run_on()


def fall_silent() -> None:
    """Report once, then send nothing."""
    with open_job() as job:
        job.progress(10, "and then nothing")
        job.flush()
    run_on()


def submit(outcome: str) -> None:
    """Start a process of another session that does the work, and exit."""
    work = [sys.executable, __file__, outcome]
    with (FOLDER / f"{JOB_ID}.output").open("wb") as output:
        subprocess.Popen(work, start_new_session=True, stdout=output, stderr=output)


def sleep_long() -> None:
    run_on()


def second_time_lucky(attempt: str, name: str = "") -> None:
    """Run forever in the first try, and succeed in the second. A talker prints and reports meanwhile."""
    if attempt == "1" and "talker" in name:
        talk()
    if attempt == "1":
        run_on()
    give_back()


def talk() -> None:
    mark("up")
    with open_job() as job:
        for number in range(PATIENCE_SECONDS * 10):
            say(f"printed {number}")
            job.log(f"reported {number}")
            time.sleep(0.1)


def outlive() -> None:
    """Log and print without a pause until the job is requested to stop."""
    with open_job() as job:
        mark("up")
        number = 0
        while number < 10 or not (FOLDER / "api-server-is-back").exists():
            number += 1
            say(f"printed {number}")
            job.log(f"reported {number}")
            job.progress(min(number, 99), f"step {number}")
            time.sleep(0.25)
        job.result({"lines": number})


def show(canary: str) -> None:
    """Leak a secret everywhere: the search for secrets must find it."""
    say(f"canary {canary}")
    with open_job() as job:
        job.log(f"canary {canary}")
        time.sleep(2)  # on the command line for all to see
        job.result({"canary": canary})


def say(line: str) -> None:
    """Print a line without buffering."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def mark(name: str, text: str = "") -> None:
    """Write ``FOLDER/<job id>.<name>`` atomically."""
    path = FOLDER / f"{JOB_ID}.{name}"
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def run_on() -> None:
    mark("up")
    time.sleep(PATIENCE_SECONDS)
    sys.exit("nobody stopped this job")


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > give_up_at:
            sys.exit("the condition was not met in time")
        time.sleep(0.05)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
