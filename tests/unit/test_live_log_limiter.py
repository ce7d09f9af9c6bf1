# SPDX-License-Identifier: Apache-2.0
"""Live log limiter: no slot is lost, and nobody waits while one is free."""

from __future__ import annotations

from airflow_asyncaction.triggers.pods.container_logs import LiveLogLimiter


class Waiting:
    def __init__(self) -> None:
        self.times_woken = 0

    def wake(self) -> None:
        self.times_woken += 1


def test_a_slot_goes_to_the_longest_waiting() -> None:
    slots, one, two, three = LiveLogLimiter(1), Waiting(), Waiting(), Waiting()
    assert slots.acquire(one.wake)
    assert not slots.acquire(two.wake)
    assert not slots.acquire(three.wake)
    slots.release()
    assert (two.times_woken, three.times_woken) == (1, 0)
    assert slots.acquire(two.wake)
    assert not slots.acquire(one.wake)


def test_who_left_the_line_is_not_woken() -> None:
    slots, one, two, three = LiveLogLimiter(1), Waiting(), Waiting(), Waiting()
    slots.acquire(one.wake)
    slots.acquire(two.wake)
    slots.acquire(three.wake)
    slots.stop_waiting(two.wake)
    slots.release()
    assert (two.times_woken, three.times_woken) == (0, 1)


def test_who_was_woken_and_needs_no_slot_leaves_it_to_the_next() -> None:
    slots, one, two, three = LiveLogLimiter(1), Waiting(), Waiting(), Waiting()
    slots.acquire(one.wake)
    slots.acquire(two.wake)
    slots.acquire(three.wake)
    slots.release()
    slots.stop_waiting(two.wake)
    assert three.times_woken == 1
    assert slots.acquire(three.wake)
