# SPDX-License-Identifier: Apache-2.0
"""Pod trigger on a real cluster with a real server, run as the triggerer runs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import SharedStreamManager
from kubernetes import client as k8s
from sqlalchemy import delete
from structlog.testing import capture_logs

from airflow_asyncaction.protocol.actions import Completion, State, StopReason, Verb
from airflow_asyncaction.protocol.tasks import Deferral, NeedsWorker
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.triggers.hook_pool import TaskHookPool, get_hook_pool
from airflow_asyncaction.triggers.pods.container_logs import LiveLogLimiter
from airflow_asyncaction.triggers.pods.sweep import PodSweep, SweepIntervals
from airflow_asyncaction.triggers.pods.trigger import PodActionTrigger
from airflow_asyncaction.triggers.pods.watch import get_watch
from dev.cluster import SMALL_IMAGE
from tests.integration.databases import Database
from tests.integration.job_pods import NOBODY, OOM_KILLED_CHILD, OOM_LIMITS, JobPods
from tests.integration.relay import Relay
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import HookClient, SignedJob, registered
from tests.integration.stored_dags import run_of, store_dag

# The database is the same to a trigger.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session"),
]

_SECONDS = 40.0
_CLOSING_SECONDS = 0.3  # connections with TLS are closed in the background
_QUICK = SweepIntervals(unobserved_seconds=0.5, recheck_seconds=1.0, pause_seconds=0.05, round_seconds=0.2)


@pytest.fixture
def hook(mounted: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__BASE_URL", mounted)
    get_hook_pool.cache_clear()
    yield mounted
    get_hook_pool.cache_clear()


class Deferred:
    """A deferred task, its action and its pod."""

    def __init__(self, task: RunningTask, job: SignedJob, pods: JobPods, script: str, **pod: Any) -> None:
        self.task = task
        self.job = job
        self.pods = pods
        self.options = {"on_finish": "delete_pod", **pod}
        self.pod = pods.create(script, info=job.info, task_key=job.task.secret_key, **self.options)

    def trigger(self, **changes: Any) -> PodActionTrigger:
        """Return the trigger that its worker would leave."""
        kwargs = {
            "action_id": self.job.info.job_id,
            "ti_id": self.task.ti_id,
            "pod": self.pod.place,
            "container": "base",
            "cluster": {
                "conn_id": None,
                "in_cluster": None,
                "cluster_context": None,
                "config_file": str(self.pods.cluster.kubeconfig),
            },
            "log": ["", 0],
            "after_line": 0,
            "get_logs": True,
            "stop_grace_seconds": 10.0,
            "start_by_ms": None,
            "on_finish": self.options["on_finish"],
            "keep_on_kill": False,
            "skip_on_exit_code": [],
        }
        return PodActionTrigger(**{**kwargs, **changes})

    @property
    def state(self) -> str:
        return str(self.task.row().state)


NewDeferred = Callable[..., Deferred]


@pytest.fixture
def defer(database: Database, client: HookClient, pods: JobPods) -> NewDeferred:
    with DAG("deferring", schedule=None) as dag:
        dag.relative_fileloc = "deferring.py"
        BaseOperator(task_id="task")
    store_dag(database.engine, dag)

    def new(script: str = "sleep 300", *, spec: dict[str, Any] | None = None, **pod: Any) -> Deferred:
        task = run_of(database.engine, "deferring").first
        job = registered(task, client, runner="kubernetes", adoptable=True, **(spec or {}))
        deferral = Deferral(needs_worker=NeedsWorker.FOR_LOGS)
        assert job.send("POST", "/task/defer", deferral.to_json()).status == 200
        task.defer()
        return Deferred(task, job, pods, script, **pod)

    return new


class Triggerer:
    """Runs triggers as ``TriggerRunner.run_trigger`` does."""

    def __init__(self) -> None:
        self._streams = SharedStreamManager()
        self._ids = iter(range(10**6))

    def start(self, trigger: PodActionTrigger) -> Started:
        return Started(self._streams, next(self._ids), trigger)


class Started:
    """A trigger that runs."""

    def __init__(self, streams: SharedStreamManager, id_: int, trigger: PodActionTrigger) -> None:
        self.events: list[TriggerEvent] = []
        self._streams = streams
        self._id = id_
        self._trigger = trigger
        self._task = asyncio.create_task(self._run())

    async def cancel(self, *, killed: bool = False) -> None:
        """Cancel it: the triggerer shuts down, or somebody acted on the task, be it the server."""
        self._task.cancel("user" if killed else None)
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        key = self._trigger.shared_stream_key()
        stream = self._streams.subscribe(trigger_id=self._id, trigger=self._trigger, key=key)
        try:
            async for event in self._trigger.filter_shared_stream(stream):
                self.events.append(event)
        except asyncio.CancelledError as error:
            if error.args == ("user",):
                await asyncio.wait_for(self._trigger.on_kill(), timeout=30)
            raise
        finally:
            await self._streams.unsubscribe(self._id, key)


async def until(is_so: Callable[[], object], *, seconds: float = _SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.1)


def run(check: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(3 * _SECONDS):
            await check
            await asyncio.sleep(_CLOSING_SECONDS)

    asyncio.run(limited())


def lines(logs: list[Any]) -> list[str]:
    """Return what containers wrote, as it stands in the task log."""
    return [
        str(entry.get("positional_args", ("",))[0]) if entry["event"] == "%s" else entry["event"]
        for entry in logs
    ]


def test_the_end_of_a_pod_ends_the_task_and_its_log_is_read_first(defer: NewDeferred) -> None:
    deferred = defer("for i in $(seq 1 300); do echo line-$i; done; sleep 2; echo last")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await until(deferred.pod.is_going)
        await started.cancel(killed=True)  # as Airflow does once the task is not deferred any more
        assert started.events == []

    with capture_logs() as logs:
        run(check())
    written = [line for line in lines(logs) if line.startswith(("line-", "last"))]
    assert written == [*(f"line-{number}" for number in range(1, 301)), "last"]
    view = deferred.job.view()
    assert (view.state, view.exit, view.error_name) == (State.SUCCESS, '{"code":0}', None)
    assert '"pod"' in (view.job or "")


async def see_through(deferred: Deferred, *, start_within_ms: int | None = None, **terms: Any) -> None:
    """Let a triggerer watch a pod until its action is done and the pod is being deleted."""
    if start_within_ms is not None:
        terms["start_by_ms"] = int(time.time() * 1000) + start_within_ms
    started = Triggerer().start(deferred.trigger(**terms))
    await until(lambda: deferred.job.view().is_done)
    await until(deferred.pod.is_going)
    await started.cancel()


def test_a_failure_is_reported_with_the_last_lines(defer: NewDeferred) -> None:
    deferred = defer("echo so it goes; exit 3")

    run(see_through(deferred))
    view = deferred.job.view()
    assert (view.state, view.error_name) == (State.ERROR, "ExitCode")
    assert view.error_message == "The job exited with code 3\nso it goes"


def test_last_lines_of_any_length_fail_no_good_pod(defer: NewDeferred) -> None:
    deferred = defer("for i in $(seq 1 20); do head -c 60000 /dev/zero | tr '\\0' x; echo; done")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await started.cancel(killed=True)
        assert started.events == []

    with capture_logs() as logs:
        run(check())
    long_lines = [line for line in lines(logs) if line.startswith("xxx")]
    assert len(long_lines) == 20
    assert min(map(len, long_lines)) >= 60_000  # older kubelets put time stamps into them
    assert deferred.job.view().state is State.SUCCESS


def test_a_deferred_pod_may_skip_itself_by_its_exit_code(defer: NewDeferred) -> None:
    deferred = defer("echo nothing today; exit 99")

    with capture_logs() as logs:
        run(see_through(deferred, skip_on_exit_code=[98, 99]))
    view = deferred.job.view()
    assert (view.state, view.error_name, view.is_skipped) == (State.STOPPED, "Skipped", True)
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_what_the_container_leaves_in_a_file_becomes_the_xcom(defer: NewDeferred) -> None:
    write = "echo '{\"rows\": 3}' > /airflow/xcom/return.json"
    deferred = defer(write, reads_return_file=True)

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await until(deferred.pod.is_going)
        await started.cancel(killed=True)

    run(check())
    assert deferred.task.xcoms()["return_value"] == {"rows": 3}


def test_the_last_second_of_a_talkative_container_is_read_whole(defer: NewDeferred) -> None:
    # It lives on for a moment, since a busy node drops what is in a container's pipe when it ends.
    deferred = defer("i=0; while [ $i -lt 20000 ]; do echo n-$i; i=$((i+1)); done; sleep 1")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success", seconds=90)
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    assert [line for line in lines(logs) if line.startswith("n-")] == [f"n-{i}" for i in range(20000)]


def test_without_a_slot_the_log_is_read_at_the_end(
    defer: NewDeferred, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = defer("echo one; sleep 3; echo two")
    monkeypatch.setattr(
        "airflow_asyncaction.triggers.pods.trigger.get_live_log_limiter", lambda: LiveLogLimiter(0)
    )

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    assert [line for line in lines(logs) if line in ("one", "two")] == ["one", "two"]


def test_what_the_job_reports_is_written_after_what_the_worker_wrote(defer: NewDeferred) -> None:
    deferred = defer("sleep 1")
    deferred.job.report(logs=["old", "new"])
    deferred.job.report(status="SUCCESS", results={"v": 1})

    async def check() -> None:
        started = Triggerer().start(deferred.trigger(after_line=1))
        await until(lambda: deferred.state == "success")
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    assert [line for line in lines(logs) if line in ("old", "new")] == ["new"]
    assert deferred.task.xcoms() == {"return_value": {"v": 1}}


def test_a_triggerer_that_starts_after_the_end_tells_it(defer: NewDeferred) -> None:
    deferred = defer("echo done; exit 0", on_finish="keep_pod")
    deferred.pod.wait_until_ended()

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await until(lambda: not deferred.pod.has_secret())
        await started.cancel(killed=True)
        assert not deferred.pod.is_going()  # it is kept

    run(check())


def test_another_triggerer_continues_where_the_first_one_died(defer: NewDeferred) -> None:
    deferred = defer("echo before; sleep 4; echo after")

    async def check() -> None:
        first = Triggerer().start(deferred.trigger())
        await asyncio.to_thread(deferred.pod.wait_until_running)
        await first.cancel()
        assert deferred.state == "deferred"
        second = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await second.cancel()

    run(check())


def test_an_end_is_sent_once_the_server_is_reachable_again(
    defer: NewDeferred, mounted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = defer("sleep 2; exit 4")
    port = int(mounted.rsplit(":", 1)[1].split("/", maxsplit=1)[0])

    async def check() -> None:
        async with Relay.to("127.0.0.1", port) as relay:
            url = mounted.replace(f":{port}", f":{relay.port}")
            monkeypatch.setenv("AIRFLOW__ASYNCACTION__BASE_URL", url)
            get_hook_pool.cache_clear()
            started = Triggerer().start(deferred.trigger())
            await asyncio.to_thread(deferred.pod.wait_until_running)
            await asyncio.sleep(0.5)
            async with relay.away():
                await asyncio.sleep(20)
                assert not deferred.pod.is_going()  # the end is not known yet
            await until(lambda: deferred.job.view().has_exit)
            await until(deferred.pod.is_going)
            await started.cancel()

    run(check())
    assert deferred.job.view().error_name == "ExitCode"


def test_a_pod_that_somebody_deletes_has_not_succeeded(defer: NewDeferred) -> None:
    deferred = defer("trap 'exit 1' TERM; sleep 300 & wait")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await asyncio.to_thread(deferred.pod.wait_until_running)
        await asyncio.to_thread(lambda: deferred.pod.delete(grace_seconds=1))
        await until(lambda: deferred.job.view().is_done)
        await started.cancel()

    run(check())
    assert deferred.job.view().error_name == "PodDeleted"


def test_a_pod_that_does_not_start_in_time_is_deleted_even_if_pods_are_kept(defer: NewDeferred) -> None:
    deferred = defer(scheduler=NOBODY, on_finish="keep_pod")

    run(see_through(deferred, start_within_ms=2000))
    assert "did not start in time" in (deferred.job.view().error_message or "")


def test_a_pod_that_does_not_start_in_time_is_reported_with_its_events(defer: NewDeferred) -> None:
    volume = k8s.V1Volume(name="v", config_map=k8s.V1ConfigMapVolumeSource(name="absent"))
    deferred = defer("true", volumes=[volume])

    run(see_through(deferred, start_within_ms=10_000))
    view = deferred.job.view()
    assert view.error_name == "CreateContainerConfigError"
    assert 'configmap "absent" not found' in (view.error_message or "")


def test_an_init_container_that_hangs_is_named_and_read(defer: NewDeferred) -> None:
    deferred = defer("true", init={"prepare": "echo waiting for the db; sleep 600"})

    with capture_logs() as logs:
        run(see_through(deferred, start_within_ms=20_000))
    view = deferred.job.view()
    assert view.error_name == "PodFailed"
    assert "Init container prepare has not ended" in (view.error_message or "")
    assert (view.error_message or "").endswith("\nwaiting for the db")
    assert lines(logs).count("[prepare] waiting for the db") == 1


def test_a_failed_init_container_is_reported_with_its_last_lines(defer: NewDeferred) -> None:
    script = f"{SHOWS_SECRETS}; sleep 0.8; echo no db > /dev/termination-log; exit 7"
    deferred = defer("true", init={"prepare": script})

    with capture_logs() as logs:
        run(see_through(deferred))
    view = deferred.job.view()
    assert view.error_name == "InitContainerFailed"
    assert view.error_message == (
        "Init container prepare exited with code 7: no db\nmine is ***\nand 0 others"
    )
    written = [line for line in lines(logs) if line.startswith("[prepare]")]
    assert written == ["[prepare] mine is ***", "[prepare] and 0 others"]


@pytest.mark.parametrize("wanted", [True, ["prepare"], []])
def test_logs_of_init_containers_that_no_worker_has_copied_come_first(
    defer: NewDeferred, wanted: list[str] | bool
) -> None:
    deferred = defer("echo base; sleep 2", init={"prepare": "echo prepared"})

    async def check() -> None:
        trigger = deferred.trigger(pod={**deferred.pod.place, "init_containers": wanted})
        started = Triggerer().start(PodActionTrigger(**trigger.serialize()[1]))
        await until(lambda: deferred.state == "success")
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    written = [line for line in lines(logs) if line in ("[prepare] prepared", "base")]
    assert written == (["[prepare] prepared", "base"] if wanted else ["base"])


def test_a_success_though_a_child_used_too_much_memory_is_warned_of(defer: NewDeferred) -> None:
    deferred = defer(f"{OOM_KILLED_CHILD}; sleep 1", resources=OOM_LIMITS)

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    assert [entry["log_level"] for entry in logs if "OOMKilled" in str(entry)] == ["warning"]
    assert deferred.job.view().exit == '{"code":0}'


def test_a_pod_whose_secret_was_deleted_returns_to_a_worker(
    defer: NewDeferred, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = defer(scheduler=NOBODY)
    deferred.pod.delete()
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")

    async def check() -> None:
        await until(lambda: not deferred.pod.has_secret(), seconds=90)
        began_at = time.monotonic()
        started = Triggerer().start(deferred.trigger())
        await until(lambda: started.events)
        assert time.monotonic() - began_at > 4  # not before the resume delay
        assert "no longer exists" in started.events[0].payload["reason"]
        await started.cancel()

    run(check())


SHOWS_SECRETS = 'echo "mine is $JOB_SECRET_KEY"; echo "and $(env | grep -c TASK) others"'


def test_secrets_in_the_pod_itself_are_read_there(defer: NewDeferred) -> None:
    deferred = defer(SHOWS_SECRETS, secret_in_env=True)

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    assert {"mine is ***", "and 0 others"} <= set(lines(logs))


def test_what_airflow_masks_is_masked_in_the_log_and_the_error_of_a_deferred_pod(defer: NewDeferred) -> None:
    deferred = defer("echo it is the password; exit 3", known=["the password"])

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.job.view().is_done)
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    assert "it is ***" in lines(logs)
    assert deferred.job.view().error_message == "The job exited with code 3\nit is ***"


def test_a_v1_job_of_a_deferred_pod_keeps_v1_to_its_end(defer: NewDeferred) -> None:
    deferred = defer(f"sleep 3; {SHOWS_SECRETS}")
    job = deferred.job

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: job.view().state is State.RUNNING)  # reported by the trigger
        assert job.send_v1("POST", "/status", {"logs": ["by v1"]}).status == 200
        assert job.send_v1("POST", "/status", {"status": "SUCCESS", "results": 7}).status == 200
        await until(lambda: deferred.state == "success")
        await started.cancel()

    with capture_logs() as logs:
        run(check())
    assert {"mine is ***", "and 0 others"} <= set(lines(logs))
    assert deferred.task.xcoms() == {"return_value": 7}


def test_a_sidecar_that_runs_on_does_not_matter(defer: NewDeferred) -> None:
    sidecar = k8s.V1Container(
        name="side", image=SMALL_IMAGE, image_pull_policy="IfNotPresent", command=["sleep", "300"]
    )
    deferred = defer("exit 0", sidecars=[sidecar])

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await until(lambda: deferred.state == "success")
        await until(deferred.pod.is_going)
        await started.cancel()

    run(check())


def test_a_pod_that_another_try_has_adopted_is_left_alone(defer: NewDeferred) -> None:
    deferred = defer("sleep 2; exit 0")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger(ti_id="019aa000-0000-7000-8000-000000000000"))
        await asyncio.to_thread(deferred.pod.wait_until_ended)
        await asyncio.sleep(3)
        assert not deferred.job.view().has_exit
        assert not deferred.pod.is_going()
        assert started.events == []
        await started.cancel()

    run(check())


def test_a_kill_asks_the_job_to_stop_and_deletes_its_pod(defer: NewDeferred) -> None:
    deferred = defer("trap '' TERM; sleep 300")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger(stop_grace_seconds=2.0))
        await asyncio.to_thread(deferred.pod.wait_until_running)
        deferred.task.set_state(None)  # cleared
        killing = asyncio.create_task(started.cancel(killed=True))
        await until(lambda: deferred.job.view().verb is Verb.STOP)
        assert not deferred.pod.is_going()
        await killing
        assert deferred.pod.is_going()

    run(check())
    view = deferred.job.view()
    assert (view.state, view.stop_reason, view.is_done) == (State.STOPPED, StopReason.KILLED, True)


def test_a_kill_since_the_run_was_deleted_does_the_same(defer: NewDeferred) -> None:
    deferred = defer("trap 'exit 1' TERM; sleep 300 & wait")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger(stop_grace_seconds=1.0))
        await asyncio.to_thread(deferred.pod.wait_until_running)
        deferred.task.delete_run()
        await started.cancel(killed=True)
        assert deferred.pod.is_going()

    run(check())
    view = deferred.job.view()
    assert (view.state, view.error_name, view.is_done) == (State.STOPPED, "Killed", True)


def test_a_kill_deletes_the_pod_of_an_action_that_the_server_knows_no_more(
    defer: NewDeferred, database: Database
) -> None:
    deferred = defer("trap 'exit 1' TERM; sleep 300 & wait")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger(stop_grace_seconds=1.0))
        await until(lambda: deferred.job.view().state is State.RUNNING)
        with database.engine.begin() as connection:
            connection.execute(delete(action_table).where(action_table.c.id == deferred.job.info.job_id))
        await started.cancel(killed=True)
        assert deferred.pod.is_going()

    run(check())


def test_a_job_that_obeys_a_kill_is_waited_for(defer: NewDeferred) -> None:
    deferred = defer("sleep 6; echo obeyed; exit 5")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await asyncio.to_thread(deferred.pod.wait_until_running)
        await asyncio.sleep(1)
        deferred.task.set_state(None)
        await started.cancel(killed=True)
        assert deferred.pod.is_going()

    with capture_logs() as logs:
        run(check())
    assert lines(logs).count("obeyed") == 1
    view = deferred.job.view()
    assert (view.state, view.has_exit) == (State.STOPPED, True)


def test_a_pod_that_is_kept_on_kill_stays(defer: NewDeferred) -> None:
    deferred = defer("sleep 300")

    async def check() -> None:
        started = Triggerer().start(deferred.trigger(stop_grace_seconds=1.0, keep_on_kill=True))
        await asyncio.to_thread(deferred.pod.wait_until_running)
        deferred.task.set_state(None)
        await started.cancel(killed=True)
        assert not deferred.pod.is_going()

    run(check())
    assert deferred.job.view().is_done


def test_a_kill_of_a_task_that_the_server_resumed_touches_nothing(
    defer: NewDeferred, actions: Actions
) -> None:
    deferred = defer("sleep 300", spec={"completion": Completion.REPORT})

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        await asyncio.to_thread(deferred.pod.wait_until_running)
        deferred.job.report(status="SUCCESS")
        settled_at = datetime.now(UTC) + timedelta(minutes=1)
        await asyncio.to_thread(actions.complete_due, settled_at)
        assert not deferred.job.view().is_deferred
        await started.cancel(killed=True)
        assert not deferred.pod.is_going()
        assert deferred.job.view().state is State.SUCCESS

    run(check())


def test_run_alone_does_the_same(defer: NewDeferred) -> None:
    deferred = defer("exit 0")

    async def check() -> None:
        async def alone() -> None:
            async for event in deferred.trigger().run():
                raise AssertionError(event)

        task = asyncio.create_task(alone())
        await until(lambda: deferred.state == "success")
        await until(deferred.pod.is_going)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    run(check())


@asynccontextmanager
async def swept(pods: JobPods, hook: str) -> AsyncIterator[None]:
    watch = get_watch(pods.place)
    async with watch.running():
        task = asyncio.create_task(PodSweep(watch, TaskHookPool(hook), _QUICK).run())
        yield
        task.cancel()


def test_the_sweep_ends_and_deletes_what_nobody_watches(defer: NewDeferred, pods: JobPods, hook: str) -> None:
    lost, watched, kept, foreign = defer(), defer(), defer("exit 0", on_finish="keep_pod"), pods.create()
    submitted = defer(spec={"completion": Completion.REPORT})
    submitted.job.report(status="SUCCESS")
    kept.pod.wait_until_ended()
    for deferred in (lost, kept, submitted):
        deferred.task.set_state(None)

    async def check() -> None:
        async with swept(pods, hook):
            await until(lost.pod.is_going)
            await asyncio.sleep(3)

    run(check())
    assert lost.job.view().state is State.STOPPED
    assert not watched.job.view().is_done
    for pod in (watched.pod, kept.pod, foreign, submitted.pod):
        assert not pod.is_going()


def test_the_sweep_leaves_alone_who_is_waited_for_here(defer: NewDeferred, pods: JobPods, hook: str) -> None:
    deferred = defer()
    deferred.task.set_state(None)

    async def check() -> None:
        started = Triggerer().start(deferred.trigger())
        watch = get_watch(pods.place)
        await until(lambda: watch.is_observed(deferred.pod.uid))
        async with swept(pods, hook):
            await asyncio.sleep(3)
            assert not deferred.job.view().is_done
        await started.cancel()

    run(check())
