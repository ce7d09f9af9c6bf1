# SPDX-License-Identifier: Apache-2.0
"""What a job or its task does to leave a file, and to have one: plain requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_asyncaction.protocol.digests import digests
from tests.integration.signed_jobs import Answer, HookClient, SignedJob

COLLIDING = (
    bytes.fromhex(
        "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89"
        "55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b"
        "d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
        "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
    ),
    bytes.fromhex(
        "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f89"
        "55ad340609f4b30283e4888325f1415a085125e8f7cdc99fd91dbd7280373c5b"
        "d8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0"
        "e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70"
    ),
)
"""Two contents with one md5 (Wang, Feng, Lai, Yu: Collisions for Hash Functions, 2004)."""


@dataclass(frozen=True)
class Downloaded:
    """A file as a job has it."""

    map: dict[str, Any]
    location: str
    content: bytes
    headers: Mapping[str, str]


def announcement(content: bytes, **fields: Any) -> dict[str, Any]:
    """Return the body of ``PUT /upload`` for a content, with these fields beside or instead of the usual."""
    found = digests([content])
    usual = {
        "hash": found.md5,
        "challenge": found.challenge,
        "sha256": found.sha256,
        "size": found.size_bytes,
        "metadata": {},
    }
    return {name: value for name, value in {**usual, **fields}.items() if value is not None}


def announce(
    job: SignedJob,
    property_: str,
    content: bytes,
    *,
    store: str = "default",
    of: str | None = None,
    **fields: Any,
) -> Answer:
    """Announce a content; a field that is None is left out."""
    path = f"/upload/{store}/{of or job.info.job_id}/{property_}"
    return job.send("PUT", path, announcement(content, **fields))


def put_content(
    job: SignedJob, url: str, content: bytes | Iterable[bytes], headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a content, unsigned and without any header of ours."""
    return content_request(job.client, "PUT", url, content, headers)


def content_request(
    client: HookClient,
    method: str,
    url: str,
    content: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request to a ``/content`` URL."""
    assert url.startswith(client.hook + "/content/"), url
    return client.send(method, url[len(client.hook) :], content, headers)


def upload(job: SignedJob, property_: str, content: bytes, **fields: Any) -> int:
    """Leave a file; return its index."""
    return _sent(job, announce(job, property_, content, **fields), content)


def locate(
    job: SignedJob, property_: str, index: int = 0, *, of: str | None = None, store: str = "default"
) -> Answer:
    """Ask where a file is."""
    return job.send("GET", f"/download/{store}/{of or job.info.job_id}/{property_}/{index}")


def download(job: SignedJob, property_: str, index: int = 0, *, of: str | None = None) -> Downloaded:
    """Have a file."""
    located = locate(job, property_, index, of=of)
    assert located.status == 200, located
    url = located.fields["Location"]
    answer = content_request(job.client, "GET", url)
    assert answer.status == 200, answer
    return Downloaded(located.fields["Map"], url, answer.body, answer.headers)


def announce_input(
    task: SignedJob, property_: str, content: bytes, *, store: str = "default", **fields: Any
) -> Answer:
    """Announce a content as a task does that gives it to its job."""
    return task.send("PUT", f"/task/inputs/{store}/{property_}", announcement(content, **fields))


def give_input(task: SignedJob, property_: str, content: bytes, **fields: Any) -> None:
    """Give a content to a task's job."""
    _sent(task, announce_input(task, property_, content, **fields), content)


def link_input(task: SignedJob, property_: str, record: Mapping[str, Any]) -> Answer:
    """Give a file that is there already to a task's job."""
    return task.send("POST", f"/task/inputs/{property_}/link", record)


def outputs(job: SignedJob) -> list[dict[str, Any]]:
    """Return what the task sees of the files that its job has left."""
    answer = job.send("GET", "/task/outputs")
    assert answer.status == 200, answer
    found = json.loads(answer.body)["files"]
    assert isinstance(found, list)
    return found


def _sent(job: SignedJob, announced: Answer, content: bytes) -> int:
    """Send what was announced, unless it is stored already; return the file's index."""
    assert announced.status == 200, announced
    if not announced.fields["done"]:
        sent = put_content(job, announced.fields["url"], content)
        assert sent.status == 200, sent
    index = announced.fields["index"]
    assert isinstance(index, int)
    return index
