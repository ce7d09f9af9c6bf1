# SPDX-License-Identifier: Apache-2.0
"""Token buckets that limit how much an action may send."""

from __future__ import annotations

import threading
import time

from airflow_asyncaction.web.rate_limits import TokenBuckets


def used(limit: TokenBuckets, key: str, at_most: int) -> int:
    """Take all tokens of a bucket, and return how many it had."""
    for count in range(at_most):
        if limit.is_used_up(key):
            return count
        limit.use(key)
    return at_most


def test_a_bucket_holds_the_tokens_of_ten_seconds() -> None:
    limit = TokenBuckets(0.5)
    assert used(limit, "a", 100) == 5
    assert limit.is_used_up("a")


def test_each_action_has_its_own() -> None:
    limit = TokenBuckets(0.1)
    assert used(limit, "a", 100) == 1
    assert used(limit, "b", 100) == 1


def test_a_bucket_refills_over_time() -> None:
    limit = TokenBuckets(100)
    used(limit, "a", 10_000)
    time.sleep(0.05)
    assert not limit.is_used_up("a")
    assert 5 <= used(limit, "a", 10_000) <= 900


def test_the_slowest_limit_lets_one_through() -> None:
    limit = TokenBuckets(0.001)
    assert used(limit, "a", 100) == 1


def test_no_limit_is_never_used_up() -> None:
    assert used(TokenBuckets(0), "a", 1_000) == 1_000


def test_checking_a_bucket_takes_no_tokens() -> None:
    limit = TokenBuckets(0.1)
    assert not any(limit.is_used_up("a") for _ in range(1_000))


def test_the_oldest_buckets_are_dropped_first() -> None:
    limit = TokenBuckets(0.1)
    for number in range(10_001):
        limit.use(str(number))
    assert not limit.is_used_up("0")
    assert limit.is_used_up("1")
    assert limit.is_used_up("10000")


def test_threads_share_a_bucket() -> None:
    limit = TokenBuckets(100)
    threads = [threading.Thread(target=used, args=(limit, "a", 250)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used(limit, "a", 10_000) < 200
