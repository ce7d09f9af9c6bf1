# SPDX-License-Identifier: Apache-2.0
"""Pod watch on a real cluster: one watch per namespace serves all actions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_asyncaction.runners.pods.api_requests import ClusterRefused, ClusterUnavailable
from airflow_asyncaction.runners.pods.exit_status import Pod
from airflow_asyncaction.triggers.pods.api import AsyncPodApi
from airflow_asyncaction.triggers.pods.watch import NamespaceWatch, get_watch
from tests.integration.job_pods import NOBODY, JobPod, JobPods
from tests.integration.relay import Relay

pytestmark = pytest.mark.integration

_SECONDS = 30
_CLOSING_SECONDS = 0.3  # connections with TLS are closed in the background


class Seen:
    """An observer that records its events."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Pod]] = []
        self.refusals: list[str] = []

    def pod_changed(self, event: str, pod: Pod) -> None:
        self.changes.append((event, pod))

    def watch_refused(self, reason: str) -> None:
        self.refusals.append(reason)

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.changes]

    @property
    def is_gone(self) -> bool:
        return bool(self.changes) and self.changes[-1][0] == "DELETED"


async def until(is_so: Callable[[], object], *, seconds: float = _SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)


async def label(pods: JobPods, pod: JobPod, value: str) -> None:
    """Change a pod, and nothing of what matters about it."""
    body = {"metadata": {"labels": {"asyncaction/test": value}}}
    await asyncio.to_thread(pods.core.patch_namespaced_pod, pod.name, pod.namespace, body)


def labelled(seen: Seen, value: str) -> bool:
    return any(pod["metadata"]["labels"].get("asyncaction/test") == value for _, pod in seen.changes)


@asynccontextmanager
async def watching(pods: JobPods) -> AsyncIterator[NamespaceWatch]:
    watch = NamespaceWatch(AsyncPodApi(pods.place))
    async with watch.running():
        yield watch


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(4 * _SECONDS):
            await check()
            await asyncio.sleep(_CLOSING_SECONDS)

    asyncio.run(limited())


def test_each_change_reaches_only_the_observer_of_its_pod(pods: JobPods) -> None:
    one, other = pods.create(scheduler=NOBODY), pods.create(scheduler=NOBODY)

    async def check() -> None:
        async with watching(pods) as watch:
            mine, others = Seen(), Seen()
            with watch.observed(one.uid, mine), watch.observed(other.uid, others):
                await until(lambda: mine.changes and others.changes)
                told_others = len(others.changes)
                await label(pods, one, "changed")
                await until(lambda: labelled(mine, "changed"))
                await asyncio.to_thread(one.delete)
                await until(lambda: mine.is_gone)
                assert len(others.changes) == told_others
            assert not watch.is_observed(one.uid)
            assert one.uid not in watch.pods
            assert other.uid in watch.pods

    run(check)


def test_a_late_observer_receives_the_known_state_immediately(pods: JobPods) -> None:
    pod = pods.create(scheduler=NOBODY)

    async def check() -> None:
        async with watching(pods) as watch:
            assert await watch.has_pod(pod.name, pod.uid)
            seen = Seen()
            with watch.observed(pod.uid, seen):
                assert seen.events == ["ADDED"]
            assert seen.changes[0][1]["metadata"]["name"] == pod.name

    run(check)


def test_a_pod_that_was_deleted_before_it_is_read_is_missing(pods: JobPods) -> None:
    pod, gone = pods.create(scheduler=NOBODY), pods.create(scheduler=NOBODY)
    gone.delete()

    async def check() -> None:
        async with watching(pods) as watch:
            assert not await watch.has_pod(gone.name, gone.uid)
            assert not await watch.has_pod(pod.name, gone.uid)  # another pod of the same name
            new = await asyncio.to_thread(lambda: pods.create(scheduler=NOBODY))
            assert await watch.has_pod(new.name, new.uid)  # whether the watch has seen it already or not

    run(check)


def test_a_version_that_is_too_old_means_a_new_list(pods: JobPods) -> None:
    """After 410 Gone or an ERROR event, the watch reports what has changed meanwhile."""
    pod, deleted = pods.create(scheduler=NOBODY), pods.create(scheduler=NOBODY)

    async def check() -> None:
        watch = NamespaceWatch(AsyncPodApi(pods.place))
        seen, gone = Seen(), Seen()
        with watch.observed(pod.uid, seen), watch.observed(deleted.uid, gone):
            async with watch.running():
                await until(lambda: seen.changes and gone.changes)
            await label(pods, pod, "while-away")
            await asyncio.to_thread(deleted.delete)
            watch.state.version = "1"
            async with watch.running():
                await until(lambda: labelled(seen, "while-away") and gone.is_gone)
                assert int(watch.state.version) > 1
            assert gone.events.count("DELETED") == 1

    run(check)


def test_a_broken_connection_is_opened_again_and_nothing_is_missed(pods: JobPods) -> None:
    pod = pods.create(scheduler=NOBODY)

    async def check() -> None:
        async with Relay.to_kubernetes(pods.cluster) as relay:
            watch = NamespaceWatch(AsyncPodApi(replace(pods.place, config_file=str(relay.kubeconfig))))
            seen = Seen()
            async with watch.running():
                with watch.observed(pod.uid, seen):
                    await until(lambda: seen.changes)
                    for number in range(3):
                        relay.cut()
                        await label(pods, pod, f"cut-{number}")
                        await until(lambda number=number: labelled(seen, f"cut-{number}"))  # type: ignore[misc]
                    assert "DELETED" not in seen.events

    run(check)


def test_a_cluster_that_is_away_for_a_while_is_waited_for(pods: JobPods) -> None:
    pod, deleted = pods.create(scheduler=NOBODY), pods.create(scheduler=NOBODY)

    async def check() -> None:
        async with Relay.to_kubernetes(pods.cluster) as relay:
            watch = NamespaceWatch(AsyncPodApi(replace(pods.place, config_file=str(relay.kubeconfig))))
            seen, gone = Seen(), Seen()
            async with watch.running():
                with watch.observed(pod.uid, seen), watch.observed(deleted.uid, gone):
                    await until(lambda: seen.changes and gone.changes)
                    async with relay.away():
                        await asyncio.to_thread(deleted.delete)
                        await label(pods, pod, "away")
                        await asyncio.sleep(5)
                        assert not gone.is_gone
                    await until(lambda: gone.is_gone and labelled(seen, "away"))

    run(check)


def test_who_runs_a_watch_second_takes_over_from_the_first(pods: JobPods) -> None:
    pod = pods.create(scheduler=NOBODY)

    async def check() -> None:
        watch = get_watch(pods.place)
        assert get_watch(pods.place) is watch
        seen = Seen()
        with watch.observed(pod.uid, seen):
            first = asyncio.create_task(watch.run())
            await until(lambda: seen.changes)
            async with watch.running():
                first.cancel()
                await label(pods, pod, "taken-over")
                await until(lambda: labelled(seen, "taken-over"))

    run(check)


def test_without_the_right_to_watch_observers_are_told_why(
    pods: JobPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = pods.create(scheduler=NOBODY)
    monkeypatch.setattr("airflow_asyncaction.triggers.pods.watch.REFUSED_FOR", timedelta(seconds=0.5))

    async def check() -> None:
        watch = NamespaceWatch(AsyncPodApi(replace(pods.place, namespace="default")))
        seen = Seen()
        async with watch.running():
            with watch.observed(pod.uid, seen):
                await until(lambda: seen.refusals)
        assert "403" in seen.refusals[0]
        assert "cannot list resource" in seen.refusals[0]

    run(check)


def test_a_pod_is_deleted_only_if_it_is_the_one(pods: JobPods) -> None:
    pod = pods.create(scheduler=NOBODY)

    async def check() -> None:
        cluster = AsyncPodApi(pods.place)
        await cluster.send(cluster.requests.delete_pod(pod.name, "another-uid"))
        assert not pod.is_going()
        await cluster.send(cluster.requests.delete_pod(pod.name, pod.uid))
        await cluster.send(cluster.requests.delete_pod(pod.name, pod.uid))  # it is gone: nothing to do
        await cluster.close()
        assert pod.is_going()

    run(check)


def test_what_the_cluster_says_is_an_error_of_one_kind_or_the_other(pods: JobPods) -> None:
    async def check() -> None:
        elsewhere = AsyncPodApi(replace(pods.place, namespace="default"))
        with pytest.raises(ClusterRefused, match="403"):
            await elsewhere.send(elsewhere.requests.read_pod("any"))
        await elsewhere.close()
        async with Relay.to_kubernetes(pods.cluster) as relay, relay.away():
            nowhere = AsyncPodApi(replace(pods.place, config_file=str(relay.kubeconfig)))
            with pytest.raises(ClusterUnavailable):
                await nowhere.send(nowhere.requests.read_pod("any"))
            await nowhere.close()
        missing = AsyncPodApi(replace(pods.place, config_file="/nowhere/kubeconfig"))
        with pytest.raises(ClusterRefused, match="no usable configuration of the cluster"):
            await missing.send(missing.requests.read_pod("any"))

    run(check)
