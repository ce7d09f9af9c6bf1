# SPDX-License-Identifier: Apache-2.0
"""File transfers of jobs and tasks, as plain requests."""

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
"""Two contents with the same MD5 (Wang, Feng, Lai, Yu: Collisions for Hash Functions, 2004)."""


@dataclass(frozen=True)
class Downloaded:
    """A downloaded file."""

    map: dict[str, Any]
    location: str
    content: bytes
    headers: Mapping[str, str]


def announcement(content: bytes, **fields: Any) -> dict[str, Any]:
    """Return the body of ``PUT /upload`` for content. Given fields are added or replace the usual ones."""
    found = digests([content])
    usual: dict[str, Any] = {
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
    """Announce content. Fields that are ``None`` are omitted."""
    path = f"/upload/{store}/{of or job.info.job_id}/{property_}"
    return job.send("PUT", path, announcement(content, **fields))


def put_content(
    job: SignedJob, url: str, content: bytes | Iterable[bytes], headers: Mapping[str, str] | None = None
) -> Answer:
    """Send content without a signature or other protocol headers."""
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
    """Upload a file, and return its index."""
    return _sent(job, announce(job, property_, content, **fields), content)


def locate(
    job: SignedJob, property_: str, index: int = 0, *, of: str | None = None, store: str = "default"
) -> Answer:
    """Request the URL of a file."""
    return job.send("GET", f"/download/{store}/{of or job.info.job_id}/{property_}/{index}")


def download(job: SignedJob, property_: str, index: int = 0, *, of: str | None = None) -> Downloaded:
    """Download a file."""
    located = locate(job, property_, index, of=of)
    assert located.status == 200, located
    url = located.fields["Location"]
    answer = content_request(job.client, "GET", url)
    assert answer.status == 200, answer
    return Downloaded(located.fields["Map"], url, answer.body, answer.headers)


def announce_input(
    task: SignedJob, property_: str, content: bytes, *, store: str = "default", **fields: Any
) -> Answer:
    """Announce an input as a task does."""
    return task.send("PUT", f"/task/inputs/{store}/{property_}", announcement(content, **fields))


def give_input(task: SignedJob, property_: str, content: bytes, **fields: Any) -> None:
    """Attach content as an input of a task's job."""
    _sent(task, announce_input(task, property_, content, **fields), content)


def link_input(task: SignedJob, property_: str, record: Mapping[str, Any]) -> Answer:
    """Attach an existing file as an input of a task's job."""
    return task.send("POST", f"/task/inputs/{property_}/link", record)


def outputs(job: SignedJob) -> list[dict[str, Any]]:
    """Return the outputs of a task's job, as the task sees them."""
    answer = job.send("GET", "/task/outputs")
    assert answer.status == 200, answer
    found = json.loads(answer.body)["files"]
    assert isinstance(found, list)
    return found


def _sent(job: SignedJob, announced: Answer, content: bytes) -> int:
    """Send the announced content unless it is already stored. Return the index of the file."""
    assert announced.status == 200, announced
    if not announced.fields["done"]:
        sent = put_content(job, announced.fields["url"], content)
        assert sent.status == 200, sent
    index = announced.fields["index"]
    assert isinstance(index, int)
    return index
