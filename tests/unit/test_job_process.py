# SPDX-License-Identifier: Apache-2.0
"""Job client in separate processes: without Airflow, at exit, after fork, with signals, over HTTPS."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_asyncaction.job import ServerUnreachable, Timing, open_job
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob
from tests.requirements import need
from tests.unit.tested_jobs import sent_logs

ROOT = Path(__file__).parent.parent.parent


def run_python(code: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JOB_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_https(tmp_path: Path) -> None:
    need("openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=test"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(made, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    code = "from airflow_asyncaction.job import *\nwith open_job() as job: job.log('x'); job.result(1)"
    with JobServer(tls=tls) as server:
        tested, distrusting = server.new_job(), server.new_job()
        done = run_python(code, {**tested.environ, "SSL_CERT_FILE": str(certificate)})
        assert (done.returncode, done.stderr) == (0, "")
        timing = Timing(report_patience_seconds=0, exit_patience_seconds=0)
        with open_job(distrusting.environ, timing=timing) as job, pytest.raises(ServerUnreachable):
            job.result(1)
    assert tested.action.state is State.SUCCESS
    assert distrusting.requests == []


OUTSIDE = """
from airflow_asyncaction.job import current_job, open_job
with open_job() as job:
    job.log("x"); job.progress(1); job.result(0); job.fail("x")
    assert job.arguments == {} and not job.is_stopping()
current_job().log("x")
assert current_job() is current_job()
try:
    job.result(object())
except TypeError:
    pass
"""


def test_outside_airflow_nothing_happens_and_one_line_says_so() -> None:
    done = run_python(OUTSIDE, {})
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert "nothing is reported" in line


def test_lines_at_interpreter_exit_are_sent(tested: TestedJob) -> None:
    code = """
import atexit
from airflow_asyncaction.job import open_job
job = open_job()
atexit.register(job.log, "from atexit")
job.log("last words")
raise SystemExit(4)
"""
    assert run_python(code, tested.environ).returncode == 4
    assert sorted(sent_logs(tested)) == ["from atexit", "last words"]
    assert tested.action.reported is None


def test_a_forked_child_reports_its_own_lines_only(tested: TestedJob) -> None:
    code = """
import os, sys, warnings
from airflow_asyncaction.job import open_job
warnings.simplefilter("ignore")
with open_job() as job:
    job.flush()
    job.log("parent")
    pid = os.fork()
    if pid == 0:
        job.log("child")
        raise ValueError("this ends the child, not the job")
    os.waitpid(pid, 0)
    job.result(1)
"""
    done = run_python(code, tested.environ)
    assert done.returncode == 0, done.stderr
    assert sorted(sent_logs(tested)) == ["child", "parent"]
    assert tested.action.state is State.SUCCESS


def test_a_signal_handler_may_report_in_the_middle_of_anything(tested: TestedJob) -> None:
    code = """
import os, signal, threading
from airflow_asyncaction.job import open_job
job = open_job()
def stop(*_):
    job.log("stopping")
    job.fail("told to stop", name="Stopped")
    raise SystemExit(5)
signal.signal(signal.SIGUSR1, stop)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
while True:
    job.log("busy"); job.flush()
"""
    done = run_python(code, tested.environ)
    assert done.returncode == 5, done.stderr
    assert tested.action.error_name == "Stopped"
    assert sent_logs(tested)[-1] == "stopping"


def test_it_imports_nothing_but_the_standard_library() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import airflow_asyncaction.job.__main__, airflow_asyncaction.testing
known = set(sys.stdlib_module_names) | {"__main__", "airflow_asyncaction"}
print(sorted({name.partition(".")[0] for name in sys.modules} - known))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
