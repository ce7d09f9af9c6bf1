# SPDX-License-Identifier: Apache-2.0
"""Peers: the same job on the API server and on the test server, to compare their responses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from airflow_asyncaction.protocol.runner_messages import RunnerMessage
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.testing import JobServer
from tests.integration.file_transfers import announcement, content_request, give_input
from tests.integration.seen_answers import seen
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob

ORDERS = b"orders of one day\n"
SIZE = 100


@dataclass(frozen=True)
class Peer:
    """A job on one of the servers, with the requests of its task and runner."""

    job: SignedJob
    send_message: Callable[[RunnerMessage], object]
    give_input: Callable[[str, bytes], None]

    def path(self, verb: str, *rest: object, store: str = "default", of: str | None = None) -> str:
        """Return the path of a file request."""
        return "/".join(["", verb, store, of or self.job.info.job_id, *map(str, rest)])

    def announce(self, content: bytes, *, path: str | None = None, **fields: Any) -> Answer:
        return self.job.send("PUT", path or self.path("upload", "counts"), announcement(content, **fields))

    def put(self, url: str, content: bytes | Iterable[bytes]) -> Answer:
        return content_request(self.job.client, "PUT", url, content)

    def upload(self, content: bytes, **fields: Any) -> Iterator[Answer]:
        announced = self.announce(content, **fields)
        yield announced
        yield self.put(announced.fields["url"], content)

    def locate(self, *rest: object, **place: Any) -> Answer:
        return self.job.send("GET", self.path("download", *rest, **place))


Exchange = Callable[[Peer], Iterable[Answer]]


@dataclass(frozen=True)
class Peers:
    """The same job on both servers."""

    real: Peer
    double: Peer

    def agree(self, exchange: Exchange) -> list[Answer]:
        """Check that both servers respond equally to the same requests. Return the API server's responses."""
        answers = list(exchange(self.real))
        assert [seen(answer) for answer in exchange(self.double)] == [seen(answer) for answer in answers]
        return answers


@contextmanager
def peers_of(job: SignedJob, **options: Any) -> Iterator[Peers]:
    """Return the peers of a job of the API server.

    :param options: options of the test server
    """
    real = Peer(
        job, job.send_message, lambda name, content: give_input(job, name, content, name=f"{name}.csv")
    )
    with JobServer(**options) as server, HookClient(server.hook_url) as client:
        tested = server.new_job({"day": 1})
        double = Peer(
            SignedJob.without_task(tested.info, client),
            tested.send_message,
            lambda name, content: tested.add_file(name, f"{name}.csv", content),
        )
        yield Peers(real, double)


@contextmanager
def new_peers(new_job: NewJob) -> Iterator[Peers]:
    """Return the peers of a new job."""
    with peers_of(new_job(arguments=JsonText('{"day":1}'))) as peers:
        yield peers
