# SPDX-License-Identifier: Apache-2.0
"""Slots for logs that are followed live: none is lost, and nobody waits while one is free."""

from __future__ import annotations

import pytest

from airflow_asyncaction.triggers.pods.log_slots import LogSlots

pytestmark = pytest.mark.unit


class Waiting:
    def __init__(self) -> None:
        self.times_woken = 0

    def wake(self) -> None:
        self.times_woken += 1


def test_a_slot_goes_to_who_has_waited_longest() -> None:
    slots, one, two, three = LogSlots(1), Waiting(), Waiting(), Waiting()
    assert slots.take(one.wake)
    assert not slots.take(two.wake)
    assert not slots.take(three.wake)
    slots.give_back()
    assert (two.times_woken, three.times_woken) == (1, 0)
    assert slots.take(two.wake)
    assert not slots.take(one.wake)


def test_who_left_the_line_is_not_woken() -> None:
    slots, one, two, three = LogSlots(1), Waiting(), Waiting(), Waiting()
    slots.take(one.wake)
    slots.take(two.wake)
    slots.take(three.wake)
    slots.leave(two.wake)
    slots.give_back()
    assert (two.times_woken, three.times_woken) == (0, 1)


def test_who_was_woken_and_needs_no_slot_leaves_it_to_the_next() -> None:
    slots, one, two, three = LogSlots(1), Waiting(), Waiting(), Waiting()
    slots.take(one.wake)
    slots.take(two.wake)
    slots.take(three.wake)
    slots.give_back()
    slots.leave(two.wake)
    assert three.times_woken == 1
    assert slots.take(three.wake)
