# SPDX-License-Identifier: Apache-2.0
"""``make demo``: runs the example Dags in a private Airflow and shows their actions live."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from dev.airflow_api import AirflowApiError, TaskKey
from dev.deployment import USER, Deployment, DeploymentError
from dev.postgres import PostgresError
from dev.screen import Screen
from dev.watch import Outcome, RunWatch

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
AT_ONCE = 3
"""Maximum number of concurrent Dag runs, and of tasks."""

TIME_LIMIT_SECONDS = 300
"""Timeout of the whole demo, which takes about half a minute."""

CONFIG = {
    "core": {"parallelism": str(AT_ONCE)},
    "workers": {"min_heartbeat_interval": "1"},
    "asyncaction": {"poll_interval": "0.5"},
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """An example Dag.

    :param needs: programs that it requires; it is skipped if one is not installed
    :param stop_at: a log line after which its task is marked as failed, as a user can do in the UI
    :param state: the state in which its tasks should end
    :param line: a line that one of its tasks must log
    """

    dag_id: str
    about: str
    needs: tuple[str, ...] = ()
    stop_at: str = ""
    state: str = "success"
    line: str = ""


PARTS = (
    Part(
        dag_id="stopping",
        about="a job that takes an hour is marked as failed: it receives SIGTERM, cleans up and exits",
        stop_at="this takes an hour",
        state="failed",
        line="cleaned up before exit",
    ),
    Part(
        dag_id="shell_job",
        about="a POSIX shell job reports with curl and openssl; the next task uses its result",
        needs=("curl", "openssl"),
    ),
    Part(
        dag_id="files",
        about="a shell job downloads a file and uploads another, which the next job uses without a copy",
        needs=("curl", "openssl"),
        line="input counts[0] counts.csv: 23 B, already stored",
    ),
    Part(dag_id="unmodified_program", about="wraps a program that knows nothing about Airflow"),
    Part(dag_id="python_callable", about="Python callables that report progress, one of them async"),
    Part(dag_id="node_job", about="a Node.js script with its arguments from the Dag", needs=("node",)),
    Part(dag_id="fan_out", about="one action for each element of a list", needs=("curl", "openssl")),
    Part(dag_id="retries", about="fails on its first try, succeeds on its second", line="the disk is full"),
    Part(dag_id="nightly", about="a cron schedule (triggered manually here) and a templated script"),
)


@dataclass(kw_only=True)
class Result:
    """Result of one part.

    :param outcomes: outcomes of its tasks
    :param problem: why the part did not complete
    :param log: the log that explains the problem
    """

    part: Part
    outcomes: list[Outcome] = field(default_factory=list)
    problem: str = ""
    log: Path | None = None

    def errors(self) -> list[str]:
        """Return a line for each deviation from the expected result."""
        if self.problem:
            return [f"{self.part.dag_id}: {self.problem}; see {_shown(self.log)}"]
        errors = [
            f"{outcome.name} ended as {outcome.state} instead of {self.part.state}; see {_shown(outcome.log)}"
            for outcome in self.outcomes
            if outcome.state != self.part.state
        ]
        lines = [line for outcome in self.outcomes for line in outcome.lines]
        if self.part.line and self.part.line not in lines:
            where = ", ".join(_shown(outcome.log) for outcome in self.outcomes)
            errors.append(f"no task of {self.part.dag_id} logged {self.part.line!r}; see {where}")
        return errors


class Demo:
    """Runs the parts in a deployment, ``AT_ONCE`` at a time."""

    def __init__(self, deployment: Deployment, screen: Screen) -> None:
        self._deployment = deployment
        self._api = deployment.api
        self._screen = screen
        self._watches: dict[str, RunWatch] = {}
        self._stopped: set[TaskKey] = set()

    def run(self, parts: Sequence[Part]) -> list[Result]:
        """Run all parts, even if some fail. Return their results."""
        results = [Result(part=part) for part in parts]
        waiting, running = self._parsed(results), list[Result]()
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(waiting.pop(0))
                self._attempt(running[-1], self._begin)
            running = [result for result in running if not result.problem and not self._has_ended(result)]
            if time.monotonic() > deadline:
                self._give_up(
                    [*running, *waiting], f"it did not end within {TIME_LIMIT_SECONDS} s", "scheduler"
                )
                break
            time.sleep(0.4)
        return results

    def _parsed(self, results: Sequence[Result]) -> list[Result]:
        """Return the results of the parts whose Dags have been parsed."""
        try:
            self._api.wait_for_dags({result.part.dag_id for result in results})
            return list(results)
        except (AirflowApiError, TimeoutError) as error:
            reason = _last_line(error)
        try:
            known = self._api.dag_ids()
        except AirflowApiError:
            known = set()
        missing = [result for result in results if result.part.dag_id not in known]
        self._give_up(missing, f"its Dag was not parsed: {reason}", "dag-processor")
        return [result for result in results if not result.problem]

    def _has_ended(self, result: Result) -> bool:
        watch = self._watches[result.part.dag_id]
        has_ended = self._attempt(result, lambda _: watch.poll())
        result.outcomes = watch.outcomes
        return has_ended or bool(result.problem)

    def _attempt(self, result: Result, step: Callable[[Part], bool]) -> bool:
        """Run one step of a part. An Airflow error ends only this part."""
        try:
            return step(result.part)
        except AirflowApiError as error:
            self._give_up([result], _last_line(error), "api-server")
            return False

    def _give_up(self, results: Iterable[Result], problem: str, component: str) -> None:
        for result in results:
            result.problem, result.log = problem, self._deployment.home / f"{component}.log"

    def _begin(self, part: Part) -> bool:
        self._screen.line(f"{self._screen.colour(part.dag_id, 'green', bold=True)}: {part.about}")
        run_id = self._api.trigger(part.dag_id)

        def stop_at(key: TaskKey, line: str) -> None:
            if part.stop_at and line == part.stop_at and key not in self._stopped:
                self._stopped.add(key)
                self._api.set_state(key, "failed")
                self._screen.line(f"  (marked {part.dag_id}.{key.task_id} as failed through Airflow's API)")

        logs = self._deployment.home / "logs"
        self._watches[part.dag_id] = RunWatch(self._api, self._screen, part.dag_id, run_id, stop_at, logs)
        return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return 0 if every part ended as expected."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep Airflow running until Ctrl-C")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    began = time.monotonic()
    try:
        return _demonstrate(screen, keep=options.keep, began=began)
    except KeyboardInterrupt:
        screen.line("Interrupted. Everything was stopped")
        return 130
    except DeploymentError as error:
        screen.line(screen.colour(f"✘ {error.reason}; see {_shown(error.log)}", "red", bold=True))
        return 1
    except PostgresError as error:  # nothing was started yet, so there is no log
        screen.line(screen.colour(f"✘ {error.reason}", "red", bold=True))
        return 1
    except OSError as error:
        screen.line(screen.colour(f"✘ {error}; see {_shown(HOME)}", "red", bold=True))
        return 1


def _demonstrate(screen: Screen, *, keep: bool, began: float) -> int:
    shutil.rmtree(HOME, ignore_errors=True)
    deployment = Deployment(HOME, dags=[ROOT / "example_dags"], config=CONFIG)
    screen.line(f"Starting Airflow {version('apache-airflow')} in {HOME.name}/ (half a minute) ...")
    with deployment:
        screen.line(f"Airflow is up after {time.monotonic() - began:.0f} s. {_where(deployment)}\n")
        results = Demo(deployment, screen).run(_possible_parts(screen))
        errors = [error for result in results for error in result.errors()]
        _report(screen, results, errors, seconds=time.monotonic() - began)
        screen.line(_where(deployment))
        if keep:
            screen.line("Airflow keeps running until you press Ctrl-C")
            _wait_for_interrupt()
    screen.line("Everything was stopped" + ("" if keep else ". make demo KEEP=1 leaves Airflow running"))
    return 1 if errors else 0


def _possible_parts(screen: Screen) -> list[Part]:
    possible = []
    for part in PARTS:
        missing = [program for program in part.needs if shutil.which(program) is None]
        if missing:
            screen.line(f"{part.dag_id} is skipped: {' and '.join(missing)} not found on PATH")
        else:
            possible.append(part)
    return possible


def _report(screen: Screen, results: Sequence[Result], errors: Sequence[str], *, seconds: float) -> None:
    screen.line()
    rows = [
        (outcome.name, outcome.state, outcome.result, f"{outcome.seconds:.1f}")
        for result in results
        for outcome in result.outcomes
    ]
    rows += [(result.part.dag_id, "did not complete", "", "") for result in results if result.problem]
    screen.table(("task", "state", "result", "seconds"), rows)
    screen.line()
    for error in errors:
        screen.line(screen.colour(f"✘ {error}", "red", bold=True))
    if not errors:
        screen.line(screen.colour(f"✔ All parts ended as expected, in {seconds:.0f} s", "green", bold=True))


def _last_line(error: Exception) -> str:
    """Return the last line of an error, which names the cause as in a traceback."""
    return str(error).strip().splitlines()[-1]


def _shown(path: Path | None) -> str:
    """Return a path relative to the current folder if possible."""
    if path is None:
        return "the logs"
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _where(deployment: Deployment) -> str:
    page = f"{deployment.base_url}/plugin/async_actions"
    return f"UI: {deployment.base_url} (user {USER}, password {deployment.password}); actions: {page}"


def _wait_for_interrupt() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        return


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
