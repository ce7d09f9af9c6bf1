# SPDX-License-Identifier: Apache-2.0
"""Command line of the job client: ``python -m airflow_asyncaction.job run -- CMD ...``."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from airflow_asyncaction import __version__
from airflow_asyncaction.exceptions import AsyncActionError
from airflow_asyncaction.job import wrapper
from airflow_asyncaction.job.stderr import print_stderr
from airflow_asyncaction.job.wrapper_files import Binding
from airflow_asyncaction.protocol.files import checked_property

_DESCRIPTION = """\
Run an unmodified program as an Airflow job.

The program's output is passed through and reported as log lines. Its end is reported as SUCCESS (exit code
0) or ERROR. If the program reports its own end, that takes precedence. If Airflow asked the job to stop, the
end is ERROR with the name Stopped, whatever the exit code. If the end cannot be reported, the wrapper prints
an error and still exits with the program's exit code.

Signals: SIGTERM, SIGINT and SIGHUP are forwarded to the program's process group, SIGUSR1 and SIGUSR2 to the
program.

Files: inputs are downloaded before the program starts. If PATH is a folder or ends in /, all files of the
property NAME are downloaded into it; otherwise, its only file is downloaded to PATH. Outputs are uploaded to
the property NAME after the program exits with code 0, unless it was asked to stop. PATH is a file, a folder
(uploaded with all files below it) or a glob pattern.

Proxies: the same environment variables apply as for curl: http_proxy, https_proxy, all_proxy, no_proxy.

Exit codes: that of the program. If a signal killed the program, the wrapper kills itself with the same
signal. 125: invalid options, invalid JOB_ variables, an unusable proxy, or a failed input or output. 126: the
program cannot be run. 127: the program was not found.

Without JOB_ variables, the wrapper just runs the program."""


class _UsageError(Exception):
    """The command line is invalid."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    try:
        arguments, command = _split(sys.argv[1:])
        options = parser.parse_args(arguments)
        if not command or not command[0]:
            raise _UsageError('specify the program to run after "--"')
    except _UsageError as error:
        parser.print_usage(sys.stderr)
        print_stderr(str(error))
        wrapper.report_wrapper_failure(f"The command line of the wrapper is invalid: {error}")
        return wrapper.WRAPPER_FAILED
    return wrapper.run(
        command,
        wrapper.Options(
            heartbeat_seconds=options.heartbeat_interval,
            stop_grace_seconds=options.stop_grace,
            report_timeout_seconds=options.report_timeout,
            inputs=options.input,
            outputs=options.output,
            output_on_failure=options.output_on_failure,
        ),
    )


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split at the first ``--``: all arguments after it belong to the program."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    defaults = wrapper.Options()
    script = Path(sys.argv[0]).name
    parser = _Parser(prog=script if script.endswith(".pyz") else "python -m airflow_asyncaction.job")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    run = commands.add_parser("run", usage="%(prog)s [options] -- CMD ...", help="run a program as a job")
    for each in (parser, run):
        each.description, each.formatter_class = _DESCRIPTION, argparse.RawDescriptionHelpFormatter
    for name, default, text in (
        ("--heartbeat-interval", defaults.heartbeat_seconds, "maximum time between two reports"),
        (
            "--stop-grace",
            defaults.stop_grace_seconds,
            "time from SIGTERM to SIGKILL if Airflow stops the job",
        ),
        ("--report-timeout", defaults.report_timeout_seconds, "how long to resend the terminal report"),
    ):
        run.add_argument(
            name,
            type=_seconds,
            default=default,
            metavar="S",
            help=f"{text}, in seconds (default: {default:g})",
        )
    for name, text in (
        ("--input", "files to download before the program starts"),
        ("--output", "files to upload after the program succeeds"),
    ):
        run.add_argument(
            name, type=_binding, action="append", default=[], metavar="NAME=PATH", help=f"{text}; repeatable"
        )
    run.add_argument(
        "--output-on-failure",
        action="store_true",
        help="also upload the outputs of a program that fails or is stopped",
    )
    return parser


def _binding(text: str) -> Binding:
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, got {text!r}")
    try:
        return Binding(checked_property(name), path)
    except AsyncActionError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < 10**7:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number of seconds from 0 to 9,999,999, got {text!r}")


if __name__ == "__main__":
    sys.exit(main())
