# SPDX-License-Identifier: Apache-2.0
"""Files through the API server: announced, sent, attached, had again."""

from __future__ import annotations

import pytest

from tests.integration.file_transfers import announce, download, put_content, upload
from tests.integration.signed_jobs import SignedJob

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("size", [0, 1, 10_000, 5 * 1024 * 1024 + 7])
def test_what_is_uploaded_can_be_downloaded(job: SignedJob, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    announced = announce(
        job, "model", content, name="model.bin", mimetype="application/x-model", metadata={"a": [1]}
    )
    assert announced.status == 200, announced
    fields = announced.fields
    assert (fields["done"], fields["index"], fields["method"], fields["complete"]) == (False, 0, "PUT", False)
    sent = put_content(job, fields["url"], content)
    assert sent.status == 200, sent
    assert sent.fields["done"] is True
    found = download(job, "model")
    assert found.content == content
    assert found.map["name"] == "model.bin"
    assert found.map["size"] == size


def test_a_content_that_is_stored_is_not_sent_again(new_job) -> None:
    content = b"the same" * 1000
    assert upload(new_job(), "a", content) == 0
    answer = announce(new_job(), "b", content)
    assert answer.fields == {"done": True, "index": 0}
