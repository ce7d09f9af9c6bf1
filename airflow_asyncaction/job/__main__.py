# SPDX-License-Identifier: Apache-2.0
"""Command line of the job side: ``python -m airflow_asyncaction.job run -- CMD ...``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from airflow_asyncaction import __version__
from airflow_asyncaction.job import wrapper
from airflow_asyncaction.job.stderr import print_stderr
from airflow_asyncaction.job.wrapper_files import Binding

_DESCRIPTION = """\
Run an unmodified program as a job of Airflow. Its output is passed through and reported as log lines; its end
is reported as SUCCESS (exit code 0) or ERROR. The program may report by itself as well: an end that it has
reported stands. If Airflow has asked the job to stop, the end is ERROR, Stopped, whatever the exit code is.
If the end cannot be reported, that is said on stderr, and the exit code is the program's all the same.
SIGTERM, SIGINT and SIGHUP are passed on to the program's process group, SIGUSR1 and SIGUSR2 to the program.
Inputs are fetched before the program starts: all files of the action's property NAME into a folder, if PATH
is one or ends in /, else its only file to PATH. Outputs are uploaded after the program has ended with exit
code 0, unless it was asked to stop, to the property NAME: the file PATH, all files below the folder PATH, or
those that match the pattern PATH.
Airflow is reached through the web proxy that curl would choose: http_proxy, https_proxy, all_proxy, no_proxy.
Exit code: the program's; killed by the same signal if it was. 125: wrong usage, wrong JOB_ variables, an
unusable proxy, or an input or output that failed; 126: the program cannot be run; 127: it was not found.
Without JOB_ variables the program is run, and nothing else."""


class _UsageError(Exception):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    try:
        own, command = _split(arguments)
        options = parser.parse_args(own)
        if not command or not command[0]:
            raise _UsageError('say what to run after "--"')
    except _UsageError as error:
        parser.print_usage(sys.stderr)
        print_stderr(str(error))
        wrapper.report_failure(f"Wrong usage of the wrapper: {error}", os.environ)
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
        os.environ,
    )


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Cut at the first ``--``: what follows is the program's, whatever it looks like."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    defaults = wrapper.Options()
    started = Path(sys.argv[0]).name
    parser = _Parser(prog=started if started.endswith(".pyz") else "python -m airflow_asyncaction.job")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    run = verbs.add_parser(
        "run", usage="%(prog)s [options] -- CMD ...", help="run a program and report for it"
    )
    for each in (parser, run):
        each.description, each.formatter_class = _DESCRIPTION, argparse.RawDescriptionHelpFormatter
    for name, default, meaning in (
        ("--heartbeat-interval", defaults.heartbeat_seconds, "between reports, at most"),
        ("--stop-grace", defaults.stop_grace_seconds, "between SIGTERM and SIGKILL when asked to stop"),
        ("--report-timeout", defaults.report_timeout_seconds, "to re-send the end to a server that is away"),
    ):
        run.add_argument(name, type=_seconds, default=default, metavar="S", help=f"seconds {meaning}")
    for name, meaning in (("--input", "files to fetch"), ("--output", "files to upload")):
        run.add_argument(
            name,
            type=_binding,
            action="append",
            default=[],
            metavar="NAME=PATH",
            help=f"{meaning}; repeatable",
        )
    run.add_argument(
        "--output-on-failure", action="store_true", help="upload what is there after any other end too"
    )
    return parser


def _binding(text: str) -> Binding:
    try:
        return Binding.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 10**7:
        raise ValueError
    return seconds


if __name__ == "__main__":
    sys.exit(main())
