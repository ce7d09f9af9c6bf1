# SPDX-License-Identifier: Apache-2.0
"""signing.sh and files.sh in all common shells: they report, keep their names apart, and leak no secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from airflow_asyncaction import protocol
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob
from tests.requirements import need

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "example_dags" / "jobs"
VECTORS = json.loads((files(protocol) / "vectors/signing.json").read_text())
# All printable ASCII, in two keys; "6" and "\\" become NUL in the inner and the outer pad.
KEYS = ["".join(map(chr, range(32, 80))), "".join(map(chr, range(80, 127))), "6" * 64, "\\" * 3]

SHELLS = ("sh", "bash", "dash", "busybox", "zsh", "mksh", "ksh93")
AWKS = ("awk", "mawk", "gawk", "original-awk", "busybox")
SET_BY_SHELLS = frozenset({"LINENO", "OLDPWD", "RANDOM", "SECONDS", "name"})

in_each_shell = pytest.mark.parametrize("shell", SHELLS)


def command(shell: str) -> list[str]:
    """Return how a shell is started; leave the test out where it is missing."""
    need(shell, "awk", "curl", "openssl")
    return [shell, "sh"] if shell == "busybox" else [shell]


def run(shell: str, script: str, environ: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(shell), *options, "-c", f'. "{JOBS / "signing.sh"}"; . "{JOBS / "files.sh"}"; {script}'],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_protocol_shows_the_file_as_it_is() -> None:
    shown = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "PROTOCOL.md").read_text(), re.MULTILINE | re.DOTALL)
    code = re.sub(r"\A(#.*\n)+\n", "", (JOBS / "signing.sh").read_text())
    assert [block for block in shown if block.startswith(code)]


# --- it signs


@pytest.mark.parametrize("vector", [v for v in VECTORS if len(v["secret"]) <= 64 and v["secret"].isascii()])
def test_it_signs_as_the_vectors_say(vector: dict[str, str]) -> None:
    assert signed("sh", vector) == vector["v2"]


@in_each_shell
def test_every_shell_signs_in_the_same_way(shell: str) -> None:
    assert signed(shell, VECTORS[0]) == VECTORS[0]["v2"]


def signed(shell: str, vector: dict[str, str]) -> str:
    done = subprocess.run(
        [*command(shell), "-c", f'. "{JOBS / "signing.sh"}"; _aa_hmac'],
        input=vector["string_to_sign"],
        env={"PATH": os.environ["PATH"], "JOB_SECRET_KEY": vector["secret"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("key", KEYS)
def test_every_awk_pads_every_key(tmp_path: Path, key: str) -> None:
    expected = bytes(b ^ 54 for b in key.encode().ljust(64, b"\0"))
    awks = [path for name in AWKS if (path := shutil.which(name))]
    assert awks
    for number, awk in enumerate(awks):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "awk").symlink_to(awk)
        path = f"{place}:{os.environ['PATH']}"
        environ = {"PATH": path, "JOB_SECRET_KEY": key, "LC_ALL": "C.UTF-8"}
        script = ["sh", "-c", f'. "{JOBS / "signing.sh"}"; _aa_pad 54']
        assert subprocess.run(script, env=environ, capture_output=True, check=True).stdout == expected, awk


# --- it reports

REPORTS = r"""
set -eu
report '{"status": "RUNNING", "logs": ["half 100% \\ done"]}' >/dev/null
download orders "$FOLDER/orders.csv"
tr 1 9 <"$FOLDER/orders.csv" >"$FOLDER/counts.csv"
upload counts "$FOLDER/counts.csv"
report '{"status": "SUCCESS", "results": [1]}'
"""
IMPATIENT = "sleep() { echo slept >&2; }\n" + REPORTS


def reported(
    shell: str, server: JobServer, tmp_path: Path, script: str = REPORTS, *options: str, **environ: str
) -> tuple[TestedJob, subprocess.CompletedProcess[str]]:
    """Run a job of this shell to its end; it must have reported everything."""
    tested = server.new_job()
    tested.add_file("orders", "orders.csv", b"1,2,3\n")
    done = run(shell, script, {**tested.environ, "FOLDER": str(tmp_path), **environ}, *options)
    assert (done.returncode, tested.action.state, tested.action.results) == (0, State.SUCCESS, "[1]"), done
    assert json.loads(done.stdout)["uuid"] == tested.info.job_id
    assert [line.message for line in tested.logs] == ["half 100% \\ done"]
    assert [(file.name, file.content) for file in tested.files["counts"]] == [("counts.csv", b"9,2,3\n")]
    return tested, done


@in_each_shell
def test_it_reports_over_faults(server: JobServer, tmp_path: Path, shell: str) -> None:
    server.fail(2, 599)
    server.lose_responses(1)
    server.refuse_transfers(1, 501, "busy")
    _, done = reported(shell, server, tmp_path, IMPATIENT)
    said = [line for line in done.stderr.splitlines() if line != "slept"]
    assert [line[:10] for line in said] == ["curl: (52)", "curl: (22)"]
    assert done.stderr.count("slept") == 4


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504, 505, 507])
def test_it_sends_again_after_any_answer_that_may_pass(
    server: JobServer, tested: TestedJob, status: int
) -> None:
    server.fail(1, status)
    done = run("sh", 'sleep() { :; }; report \'{"status": "SUCCESS"}\' >/dev/null', tested.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert tested.action.state is State.SUCCESS


@pytest.mark.parametrize("page", ["<html>Sign in</html>", ""])
def test_it_waits_for_a_captive_portal(server: JobServer, tested: TestedJob, page: str) -> None:
    server.fail(2, 200, page=page)
    script = 'sleep() { echo slept >&2; }; report \'{"status": "SUCCESS"}\' >/dev/null'
    done = run("sh", script, tested.environ)
    assert (done.returncode, done.stderr) == (0, "slept\n" * 2)
    assert tested.action.state is State.SUCCESS


def test_a_full_file_store_is_not_waited_for(server: JobServer, tested: TestedJob, tmp_path: Path) -> None:
    (tmp_path / "counts").write_text("1")
    script = 'sleep() { echo slept; }; upload counts "$FOLDER/counts" || echo refused'
    server.fail(1, 507, "no_space")
    server.refuse_transfers(1, 507, "no_space")
    for _ in range(2):
        done = run("sh", script, {**tested.environ, "FOLDER": str(tmp_path)})
        assert done.stdout == "refused\n"
        assert "returned 507" in done.stderr
        assert '"no_space"' in done.stderr
    assert tested.files["counts"] == []


@in_each_shell
def test_a_file_that_cannot_be_written_or_read_is_not_waited_for(
    tested: TestedJob, tmp_path: Path, shell: str
) -> None:
    tested.add_file("orders", "orders.csv", b"1,2,3\n")
    script = """
    sleep() { echo slept; }
    download orders "$FOLDER/no/orders.csv" || echo refused
    _aa_move "$JOB_HOOK/content/x" '' --upload-file "$FOLDER/no/orders.csv" || echo refused
    """
    done = run(shell, script, {**tested.environ, "FOLDER": str(tmp_path)})
    assert done.stdout == "refused\n" * 2
    assert [line[:10] for line in done.stderr.splitlines() if "(" in line] == ["curl: (23)", "curl: (26)"]


@in_each_shell
def test_neither_metadata_nor_a_line_break_redirects_a_transfer(
    tested: TestedJob, tmp_path: Path, shell: str
) -> None:
    metadata = {"Location": "http://127.0.0.1:1/evil", "hash": "0", "url": "http://127.0.0.1:1/evil"}
    tested.add_file("orders", '"Location": "orders".csv', b"1,2,3\n", metadata=metadata)
    script = """
    set -eu
    sleep() { echo slept; }
    download orders "$FOLDER/orders.csv"
    _aa_field '{"url": "http://h/
output = x", "index": 7}' url
    echo
    _aa_field '{"url": "http://h/", "index": 7, "complete": false}' index
    """
    done = run(shell, script, {**tested.environ, "FOLDER": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "http://h/output=x\n7", "")
    assert (tmp_path / "orders.csv").read_bytes() == b"1,2,3\n"


def test_a_replaced_content_is_reported(tested: TestedJob, tmp_path: Path) -> None:
    tested.add_file("orders", "orders.csv", b"1,2,3\n")
    script = '_aa_md5() { cat >/dev/null; echo other; }; download orders "$FOLDER/orders.csv" || echo refused'
    done = run("sh", script, {**tested.environ, "FOLDER": str(tmp_path)})
    assert done.stdout == "refused\n"
    assert (
        done.stderr
        == f"The MD5 of {tmp_path}/orders.csv differs from that of input orders. Download it again.\n"
    )


def test_it_gives_up_after_some_minutes(server: JobServer, tested: TestedJob) -> None:
    server.fail(10**6)
    done = run("sh", "sleep() { echo $1; }; report '{}'; echo $?", tested.environ)
    assert done.stdout.split() == ["1", "2", "4", "8", "16", "32", "64", "128", "1"]
    assert '/status returned 500: {"error": "internal"' in done.stderr


def test_it_tells_when_a_direct_upload_is_complete(tmp_path: Path) -> None:
    with JobServer(direct_uploads=True) as server:
        reported("sh", server, tmp_path)


@in_each_shell
@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_that_is_off_is_corrected_once(
    server: JobServer, tested: TestedJob, shell: str, minutes: int
) -> None:
    server.clock_offset = timedelta(minutes=minutes)
    script = "report '{}' >/dev/null; report '{\"status\": \"SUCCESS\"}' >/dev/null; echo $_aa_offset"
    done = run(shell, script, tested.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert abs(int(done.stdout) - 60 * minutes) < 20
    assert tested.action.state is State.SUCCESS
    assert len(tested.requests) == 2  # those whose time was right


@in_each_shell
def test_refusals_are_reported_with_the_servers_message(
    server: JobServer, tested: TestedJob, shell: str
) -> None:
    script = """
    report '[]' || echo refused
    upload 1a /dev/null || echo refused
    download x "$FOLDER" || echo refused
    JOB_HOOK=$JOB_HOOK/nowhere
    report '{}' || echo refused
    """
    done = run(shell, script, tested.environ)
    assert done.stdout == "refused\n" * 4
    told = [line.removeprefix(server.hook_url) for line in done.stderr.splitlines()]
    assert [line.partition(" returned ")[2][:3] for line in told] == ["400", "400", "404", "404"]
    codes = ("malformed", "malformed", "no_such_file", "no_such_route")
    assert all(f'"error": "{code}"' in line for code, line in zip(codes, told, strict=True))


@pytest.mark.parametrize(
    "server_time", ["", ', "serverTime": "a[$(touch $FOLDER/x)]1234567890123"', ', "serverTime": 12']
)
@in_each_shell
def test_an_invalid_time_is_not_evaluated(
    server: JobServer, tested: TestedJob, tmp_path: Path, shell: str, server_time: str
) -> None:
    # ... as an answer of anybody who stands between
    answer = f'{{"error": "stale_time"{server_time}}}401'
    script = f"curl() {{ cat >/dev/null; printf %s '{answer}'; }}; report '{{}}'; echo $?"
    done = run(shell, script, {**tested.environ, "FOLDER": str(tmp_path)})
    assert done.stdout == "1\n"
    assert done.stderr == f"{server.hook_url}/status returned 401: {answer[:-3]}\n"
    assert list(tmp_path.iterdir()) == []


# --- it minds its names

TAKEN = (
    "time nonce digest signature inner outer key n answer location url offset pause server i x code body"
    " result field md5 pad hmac sha256 request"
)
OWN = r"""
for name in $TAKEN_NAMES; do eval "$name=mine"; done
pad() { echo my pad; }
field() { echo my field; }
request() { echo my request; }
sha256() { echo my sha256; }
path_before=$PATH
variables() { set | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' | sort -u; }
variables >"$FOLDER/before"
. "$JOBS/signing.sh"
. "$JOBS/files.sh"
report '{"status": "RUNNING"}' >/dev/null
download orders "$FOLDER/orders.csv"
upload counts "$FOLDER/orders.csv"
variables >"$FOLDER/after"
for name in $TAKEN_NAMES; do eval "echo \"$name=\$$name\""; done
pad; field; request; sha256
[ "$PATH" = "$path_before" ] && echo PATH
"""


@in_each_shell
def test_a_scripts_own_names_are_left_alone(tested: TestedJob, tmp_path: Path, shell: str) -> None:
    tested.add_file("orders", "orders.csv", b"1,2,3\n")
    script = OWN.replace("$TAKEN_NAMES", TAKEN)  # which not every shell would split
    environ = {**tested.environ, "FOLDER": str(tmp_path), "JOBS": str(JOBS), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*command(shell), "-c", script], env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    mine = [f"{name}=mine" for name in TAKEN.split()]
    assert done.stdout.splitlines() == [*mine, "my pad", "my field", "my request", "my sha256", "PATH"]
    before, after = (set((tmp_path / name).read_text().split()) for name in ("before", "after"))
    new = {name for name in after - before if not name.startswith(("_", "BASH_", "PIPE"))}
    assert new - SET_BY_SHELLS == set()
    assert "_aa_offset" in after - before


# --- it shows no secret

# By absolute paths: what it runs itself must not be watched.
WATCH = """#!/bin/sh
{cat} "/proc/$$/cmdline" >>"$COMMANDS"
exec {program} "$@"
"""
WATCHED = ["awk", "basename", "cat", "curl", "cut", "date", "openssl", "printf", "sed", "sleep", "tr", "wc"]


@in_each_shell
def test_neither_a_trace_nor_a_command_line_shows_a_part_of_the_secret_or_a_content_url(
    server: JobServer, tmp_path: Path, shell: str
) -> None:
    server.clock_offset = timedelta(minutes=10)
    commands = tmp_path / "commands"
    environ = {"PATH": watched_programs(tmp_path), "COMMANDS": str(commands)}
    tested, done = reported(shell, server, tmp_path, REPORTS, "-x", **environ)
    shown = done.stderr, commands.read_text()
    assert all("X-Job-Signature" in text for text in shown)
    assert "--config\0-\0" in shown[1]
    assert "/content/" not in shown[1]  # a URL of a content, which is as good as a password
    assert [part for part in parts_of(tested.info.secret_key) for text in shown if part in text] == []


REPORT_OFFLINE = r"""
date() { echo 1700000000; }
curl() { cat >/dev/null; printf '{}200'; }
. "$JOBS/signing.sh"
report '{"status": "RUNNING"}'
"""


@in_each_shell
@pytest.mark.parametrize("option", ["-x", "-v", "-u", "-e"])
def test_no_option_makes_a_shell_show_a_single_character_of_the_secret(
    tmp_path: Path, shell: str, option: str
) -> None:
    environ = {"PATH": watched_programs(tmp_path), "COMMANDS": str(tmp_path / "commands"), "JOBS": str(JOBS)}
    environ |= {"JOB_ID": "1", "JOB_HOOK": "http://h", "JOB_SECRET_KEY": "^~" * 21}
    started = [*command(shell), option, "-c", f"set {option}\n{REPORT_OFFLINE}"]
    done = subprocess.run(started, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "{}"
    assert ("_aa_request" in done.stderr) == (option in ("-x", "-v"))
    commands = (tmp_path / "commands").read_text()
    assert "openssl" in commands
    source = set((JOBS / "signing.sh").read_text().splitlines())  # which -v shows
    shown = "\n".join(line for line in (done.stderr + commands).splitlines() if line not in source)
    assert not {"^", "~"} & set(shown)
    codes = {str(ord(character) ^ pad) for character in "^~" for pad in (0, 54, 92)} - {"2"}
    assert not codes & set(re.findall(r"(?<![0-9a-f])[0-9]+(?![0-9a-f])", shown))


@pytest.mark.parametrize("shell", ["mksh", "sh"])
def test_where_printf_is_a_program_no_text_of_the_job_is_on_a_command_line(
    server: JobServer, tmp_path: Path, shell: str
) -> None:
    environ = {"PATH": watched_programs(tmp_path), "COMMANDS": str(tmp_path / "commands")}
    without_printf = "" if shell == "mksh" else "command() { echo /usr/bin/printf; }\n"
    reported(shell, server, tmp_path, without_printf + REPORTS, **environ)
    commands = (tmp_path / "commands").read_text()
    assert "X-Job-Signature" in commands
    assert not [text for text in ("half 100%", "/content/", "results") if text in commands]


def watched_programs(tmp_path: Path) -> str:
    """Return a PATH on which programs leave their command lines in ``$COMMANDS``."""
    (tmp_path / "bin").mkdir()
    for program in WATCHED:
        watched = tmp_path / "bin" / program
        watched.write_text(WATCH.format(cat=shutil.which("cat"), program=shutil.which(program)))
        watched.chmod(0o755)
    return f"{tmp_path}/bin:{os.environ['PATH']}"


def parts_of(secret: str) -> list[str]:
    """Return what would give some of a secret away: eight characters of it, or of it as it is padded."""
    padded = ["".join(chr(ord(character) ^ pad) for character in secret) for pad in (54, 92)]
    return [text[at : at + 8] for text in (secret, *padded) for at in range(len(text) - 7)]
