# SPDX-License-Identifier: Apache-2.0
"""Jobs behind a real web proxy. curl shows that our choice of proxies is the usual one."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from airflow_asyncaction.exceptions import AsyncActionError
from airflow_asyncaction.job import Job, JobInfoError, ServerError, ServerUnreachable, Timing, open_job
from airflow_asyncaction.job.content_client import ContentClient
from airflow_asyncaction.job.proxies import Proxies, Proxy, is_exempt
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob
from tests.requirements import need
from tests.unit.remote_deployment import certify
from tests.unit.web_proxy import WebProxy

ROOT = Path(__file__).parents[2]
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("JOB_") and not name.lower().endswith("_proxy")
}
AIRFLOW = "airflow.internal"  # which only the proxy can resolve
CREDENTIALS = "us@er:pass-word-of-the-proxy"
IN_URL = "us%40er:pass-word-of-the-proxy"


@pytest.fixture
def proxy(server: JobServer) -> Iterator[WebProxy]:
    with WebProxy({AIRFLOW: urlsplit(server.hook_url).port or 0}) as proxy:
        yield proxy


def behind(tested: TestedJob, **variables: str) -> dict[str, str]:
    """Return the environment of a job that reaches Airflow by a name that only the proxy knows."""
    return {**tested.environ, "JOB_HOOK": f"http://{AIRFLOW}:8080/async", **variables}


def run(environ: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**CLEAN, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


WRAPPED = (sys.executable, "-m", "airflow_asyncaction.job", "run")


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_reports_and_contents_go_through_the_proxy(
    server: JobServer, proxy: WebProxy, tmp_path: Path, variable: str
) -> None:
    tested = server.new_job()
    tested.add_file("orders", "orders.csv", b"1,2,3")
    with open_job(behind(tested, **{variable: f"http://{proxy.place}/"})) as job:
        path = job.download("orders", tmp_path)
        path.write_bytes(b"6")
        job.upload("counts", path)
        job.result(job.arguments)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, "{}")
    assert tested.files["counts"][0].content == b"6"
    through = {(each.method, urlsplit(each.target).path.split("/")[2]) for each in proxy.requests}
    assert through == {
        ("POST", "status"),
        ("GET", "download"),
        ("GET", "content"),
        ("PUT", "upload"),
        ("PUT", "content"),
    }
    assert all(each.headers["Host"] == urlsplit(each.target).netloc for each in proxy.requests)


def test_the_wrapper_reports_through_the_proxy(tested: TestedJob, proxy: WebProxy) -> None:
    done = run(behind(tested, http_proxy=proxy.place), *WRAPPED, "--", "echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    assert tested.action.state is State.SUCCESS
    assert [line.message for line in tested.logs] == ["hi"]


def test_wrong_usage_is_reported_through_the_proxy(tested: TestedJob, proxy: WebProxy) -> None:
    assert run(behind(tested, http_proxy=proxy.place), *WRAPPED).returncode == 125
    assert tested.action.error_name == "WrapperFailed"


def test_one_connection_to_the_proxy_is_enough(tested: TestedJob, proxy: WebProxy) -> None:
    with open_job(behind(tested, http_proxy=proxy.place)) as job:
        for number in range(5):
            job.log(str(number))
            job.flush()
        job.result(1)
    assert len(proxy.requests) >= 6
    assert not any(each.headers.get("Connection") == "close" for each in proxy.requests)


def test_the_proxy_gets_its_credentials_and_nobody_else(server: JobServer, proxy: WebProxy) -> None:
    tested, proxy.credentials = server.new_job(), CREDENTIALS
    with open_job(behind(tested, http_proxy=f"http://{IN_URL}@{proxy.place}")) as job:
        job.result(1)
        shown = repr(job) + repr(vars(job)) + repr(vars(vars(job)["_reporter"]))
    assert tested.action.state is State.SUCCESS
    assert "pass-word" not in shown


@pytest.mark.parametrize("given", ["", "user:wrong-pass-word@"])
def test_a_proxy_that_refuses_is_named_without_credentials(
    tested: TestedJob, proxy: WebProxy, tmp_path: Path, given: str
) -> None:
    proxy.credentials = CREDENTIALS
    with open_job(behind(tested, http_proxy=f"http://{given}{proxy.place}")) as job:
        for call in (lambda: job.result(1), lambda: job.download("orders", tmp_path)):
            with pytest.raises(ServerError, match=rf"through the proxy {proxy.place}.*407") as caught:
                call()
            assert caught.value.status == 407
            assert "pass-word" not in "".join(traceback.format_exception(caught.value))


def test_a_proxy_that_is_not_there_is_named(tested: TestedJob) -> None:
    environ = behind(tested, http_proxy=f"http://{IN_URL}@127.0.0.1:1")
    timing = Timing(report_patience_seconds=0.1, exit_patience_seconds=0)
    with (
        open_job(environ, timing=timing) as job,
        pytest.raises(ServerUnreachable, match=r"through the proxy 127\.0\.0\.1:1.*refused") as caught,
    ):
        job.result(1)
    assert "pass-word" not in str(caught.value)


def test_an_outage_behind_the_proxy_is_waited_for(
    server: JobServer, tested: TestedJob, proxy: WebProxy
) -> None:
    with open_job(behind(tested, http_proxy=proxy.place)) as job:
        job.flush()
        server.go_away()
        before = len(proxy.requests)
        job.log("meanwhile")
        while len(proxy.requests) == before:  # which answers it with 502
            time.sleep(0.01)
        server.come_back()
        job.result(1)
    assert tested.action.state is State.SUCCESS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return certify(tmp_path / "airflow.pem")


PROGRAM = """
import sys
from airflow_asyncaction.job import open_job
with open_job() as job:
    path = job.download("orders", sys.argv[1] + "/")
    job.upload("counts", path)
    job.result(1)
"""


@pytest.mark.parametrize("credentials", [None, CREDENTIALS])
def test_https_goes_through_a_tunnel(tmp_path: Path, certificate: Path, credentials: str | None) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with JobServer(tls=tls) as server, WebProxy(credentials=credentials) as proxy:
        tested = server.new_job()
        tested.add_file("orders", "orders.csv", b"1,2,3")
        url = f"http://{IN_URL}@{proxy.place}" if credentials else proxy.place
        environ = {**tested.environ, "HTTPS_PROXY": url, "SSL_CERT_FILE": str(certificate)}
        done = run(environ, sys.executable, "-c", PROGRAM, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert tested.action.state is State.SUCCESS
    assert {each.method for each in proxy.requests} == {"CONNECT"}
    assert {each.target for each in proxy.requests} == {urlsplit(server.hook_url).netloc}
    assert all("X-Job-Id" not in each.headers for each in proxy.requests)


def test_a_tunnel_that_is_refused_is_an_error_at_once(tested: TestedJob) -> None:
    with WebProxy(credentials=CREDENTIALS) as proxy:
        environ = {**tested.environ, "JOB_HOOK": f"https://{AIRFLOW}/async", "https_proxy": proxy.place}
        with (
            open_job(environ) as job,
            pytest.raises(ServerError, match=rf"through the proxy {proxy.place}.*407") as caught,
        ):
            job.result(1)
    assert caught.value.status == 407


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"http_proxy": "socks5://user:pass-word@h"}, "http_proxy names a proxy that is not http://"),
        ({"ALL_PROXY": "https://user:pass-word@h"}, "ALL_PROXY names a proxy that is not http://"),
        ({"all_proxy": "http://user:pass-word@h:port"}, "all_proxy is not a valid proxy URL"),
        ({"http_proxy": "http://user:pass-word@"}, "http_proxy is not a valid proxy URL"),
        ({"http_proxy": "http://user:pass-word@h h"}, "http_proxy is not a valid proxy URL"),
        ({"http_proxy": "http://[pass-word"}, "http_proxy is not a valid proxy URL"),
    ],
)
def test_an_unusable_proxy_is_reported_immediately(
    tested: TestedJob, variables: dict[str, str], said: str
) -> None:
    with pytest.raises(
        JobInfoError, match=f"{said}.*Set http_proxy to .*, or add {AIRFLOW} to no_proxy"
    ) as caught:
        open_job(behind(tested, **variables))
    assert "pass-word" not in str(caught.value)
    done = run(behind(tested, **variables), *WRAPPED, "--", "echo", "never")
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr
    assert "pass-word" not in done.stderr


def test_a_content_url_has_a_proxy_of_its_own() -> None:
    contents = ContentClient(proxies=Proxies({"https_proxy": "socks5://user:pass-word@h"}))
    with pytest.raises(AsyncActionError, match="https_proxy names a proxy that is not http://") as caught:
        contents.get("https://store.example/bucket?signature=s", {})
    assert "pass-word" not in str(caught.value)
    assert "signature" not in str(caught.value)


def test_without_a_way_to_airflow_the_program_runs_all_the_same(tested: TestedJob) -> None:
    done = run(behind(tested), *WRAPPED, "--report-timeout", "0.2", "--", "sh", "-c", "echo out; exit 0")
    assert (done.returncode, done.stdout) == (0, "out\n")
    (line,) = done.stderr.splitlines()
    assert f"The end could not be reported: The request to {AIRFLOW}" in line
    assert tested.requests == []


def test_airflows_own_processes_reach_the_api_server_without_a_proxy(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    tested = server.new_job()
    proxies = Proxies.of_worker(tested.info.hook_url)
    with Job(tested.info, proxies=proxies) as job:
        job.result(1)
    assert tested.action.state is State.SUCCESS
    assert proxies.choose("http://object-store.example/x") == Proxy("127.0.0.1", 1)


# --- as curl does


@pytest.fixture(scope="module")
def watched() -> Iterator[WebProxy]:
    need("curl")
    with WebProxy() as proxy:
        yield proxy


def curl_uses(proxy: WebProxy, url: str, environ: Mapping[str, str]) -> bool:
    """Return whether curl asks the proxy. Where it does not, it comes to a port that is closed."""
    proxy.requests.clear()
    command = ["curl", "--silent", "--output", "/dev/null", "--connect-to", "::127.0.0.1:1", url]
    subprocess.run(command, env={"PATH": os.environ["PATH"], **environ}, check=False, timeout=60)
    return bool(proxy.requests)


HOST, ADDRESS = "http://a.b.example:8080/x", "http://10.1.2.3:8080/x"


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        (HOST, {"http_proxy": "P"}),
        (HOST, {"http_proxy": "HTTP://P/"}),
        (HOST, {"HTTP_PROXY": "P"}),
        (HOST, {"https_proxy": "P", "HTTPS_PROXY": "P"}),
        (HOST, {"all_proxy": "P"}),
        (HOST, {"ALL_PROXY": "P"}),
        (HOST, {"http_proxy": "", "all_proxy": "", "ALL_PROXY": "P"}),
        ("https://a.example/", {"https_proxy": "P"}),
        ("https://a.example/", {"HTTPS_PROXY": "P"}),
        ("https://a.example/", {"https_proxy": "", "HTTPS_PROXY": "P"}),
        ("https://a.example/", {"http_proxy": "P"}),
        ("https://a.example/", {"ALL_PROXY": "P"}),
        ("https://a.example/", {"https_proxy": "P", "no_proxy": "example"}),
        (HOST, {"http_proxy": "P", "NO_PROXY": "example"}),
        (HOST, {"http_proxy": "P", "no_proxy": "", "NO_PROXY": "example"}),
        (HOST, {"http_proxy": "P", "no_proxy": "other", "NO_PROXY": "example"}),
    ],
    ids=str,
)
def test_variables_are_those_of_curl(watched: WebProxy, url: str, variables: dict[str, str]) -> None:
    environ = {name: value.replace("P", watched.place) for name, value in variables.items()}
    environ = {name: value.replace(f"HTT{watched.place}", "HTTP") for name, value in environ.items()}
    assert (Proxies(environ).choose(url) is not None) is curl_uses(watched, url, environ)


@pytest.mark.parametrize("url", [HOST, "http://A.B.Example./", "http://localhost/", ADDRESS])
@pytest.mark.parametrize(
    "no_proxy",
    [
        "*",
        " * ",
        "x,*",
        "*.example",
        "example",
        ".example",
        "..example",
        "b.example",
        "a.b.example",
        ".a.b.example",
        "x.a.b.example",
        "xample",
        "EXAMPLE.",
        "a.b.example:8080",
        "example:8080",
        "x b.example",
        "x,, , b.example",
        "x;b.example",
        ".",
        ",",
        "localhost",
        "127.0.0.1",
        "10.1.2.3",
        "10.1.2.3:8080",
        "10.1.2",
        "2.3",
        "10.0.0.0/8",
        "10.1.2.0/24",
        "10.1.3.0/24",
        "10.1.3.0/23",
        "10.1.2.3/32",
        "10.1.2.3/33",
        "10.0.0.0/0",
        "10.1.2.3/",
        "10.1.2.3/x",
        "10.0.0.0/8x",
        "10/8",
        "::ffff:10.1.2.3",
    ],
)
def test_no_proxy_is_matched_as_curl_matches_it(watched: WebProxy, url: str, no_proxy: str) -> None:
    environ = {"http_proxy": watched.place, "no_proxy": no_proxy}
    assert (Proxies(environ).choose(url) is not None) is curl_uses(watched, url, environ)


@pytest.mark.parametrize("host", ["0x0a010203", "10.66051", "167838211"])
def test_other_forms_of_an_address_are_matched_as_curl_matches_them(watched: WebProxy, host: str) -> None:
    environ = {"http_proxy": watched.place, "no_proxy": "10.0.0.0/8"}
    assert not curl_uses(watched, f"http://{host}/", environ)
    assert Proxies(environ).choose(f"http://{host}/") is None


@pytest.mark.parametrize(
    ("no_proxy", "is_direct"),
    [
        ("fd00::1", True),
        ("fd00:0:0::1", True),
        ("fd00::/8", True),
        ("fd00::/7", True),
        ("fe00::/8", False),
        ("fd00::/129", False),
        ("fd00::2", False),
        ("0.0.0.0/0", False),
    ],
)
def test_ipv6_is_matched_as_curls_manual_says(no_proxy: str, is_direct: bool) -> None:
    assert is_exempt("fd00::1", no_proxy) is is_direct
    environ = {"http_proxy": "p", "no_proxy": no_proxy}
    assert (Proxies(environ).choose("http://[fd00::1]:8080/x") is None) is is_direct


@pytest.mark.parametrize(
    ("text", "place", "pair"),
    [
        ("p", "p:1080", None),
        ("p:3128", "p:3128", None),
        ("http://p:3128/ignored?x", "p:3128", None),
        ("http://[::1]:3128", "[::1]:3128", None),
        ("http://user@p", "p:1080", "user:"),
        ("http://us%40er:p%3Aw@p", "p:1080", "us@er:p:w"),
    ],
)
def test_proxies_are_read(text: str, place: str, pair: str | None) -> None:
    proxy = Proxy.parse(text)
    assert proxy.place == place
    said = proxy.headers.get("Proxy-Authorization")
    assert (said and base64.b64decode(said.removeprefix("Basic ")).decode()) == pair
    assert "p:w" not in repr(proxy)
