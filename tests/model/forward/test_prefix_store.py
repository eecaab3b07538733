"""The store of prefixes: bounded, the least recently used dropped first, never one of the step being made."""

from __future__ import annotations

import gc
import weakref

import torch
from qwen_edit.forward.prefix_store import RECOVERY_STEPS, Prefix, PrefixStore

BYTES = 400


def prefix(name: str) -> Prefix:
    return Prefix(name, BYTES, lambda: torch.zeros(BYTES // 4))


def test_one_that_is_kept_is_found_and_one_that_is_gone_is_made_again() -> None:
    store = PrefixStore(2 * BYTES)
    for name in "abacab":
        store.begin(prefix(name))
    # b was displaced by c, then c by b: a was always used more recently.
    assert store.usage == (2, 4, 1, 2 * BYTES)


def test_what_the_next_step_needs_is_dropped_last() -> None:
    store = PrefixStore(2 * BYTES)
    for name in "ab":
        store.begin(prefix(name))
    store.next_step("ax")
    store.begin(prefix("c"))
    store.begin(prefix("a"))
    assert store.usage.hits == 1
    store.begin(prefix("b"))
    assert store.usage.recomputations == 1


def test_none_of_a_step_is_dropped_for_another_of_it_even_where_they_do_not_fit() -> None:
    store = PrefixStore(2 * BYTES)
    store.begin(prefix("old"))
    names = ["a", "b", "c", "a"]
    first, _, _, again = store.tensors([prefix(name) for name in names])
    assert first is again
    assert store.usage == (0, 4, 0, 3 * BYTES)
    store.begin(prefix("d"))
    assert store.usage.bytes <= 2 * BYTES, "they had no room beyond their step"


def test_room_is_made_before_it_is_taken() -> None:
    store = PrefixStore(BYTES)
    (kept,) = store.tensors([prefix("a")])
    dropped = weakref.ref(kept)
    del kept

    def make() -> torch.Tensor:
        gc.collect()
        assert dropped() is None
        return torch.zeros(BYTES // 4)

    store.begin(Prefix("b", BYTES, make))
    assert store.usage == (0, 2, 0, BYTES)


def test_one_that_keeps_nothing_holds_what_the_next_step_needs() -> None:
    store = PrefixStore(9 * BYTES, keeps=False)
    for name in "ab":
        store.begin(prefix(name))
    store.next_step("b")
    assert store.usage.bytes == BYTES
    store.next_step("")
    assert store.usage.bytes == 0


def test_what_was_too_much_is_given_back_and_less_is_held_from_there() -> None:
    store = PrefixStore(10 * BYTES)
    for name in "abcdefgh":
        store.begin(prefix(name))
    store.give_back()
    assert (store.usage.bytes, store.max_bytes, store.room) == (0, 7.2 * BYTES, 10 * BYTES)
    store.begin(prefix("a"))
    assert store.usage.recomputations == 1
    for _ in range(9):
        store.give_back()
        store.begin(prefix("a"))
    assert store.max_bytes == 5 * BYTES


def test_a_shortage_while_nothing_is_held_costs_no_room() -> None:
    store = PrefixStore(10 * BYTES)
    store.give_back()
    assert store.max_bytes == 10 * BYTES
    for name in "abcdefgh":
        store.begin(prefix(name))
    store.give_back()
    store.give_back()
    assert store.max_bytes == 7.2 * BYTES


def test_after_many_steps_without_a_shortage_a_tenth_more_is_held_until_the_room_is_full() -> None:
    store = PrefixStore(10 * BYTES)
    for name in "abcdefgh":
        store.begin(prefix(name))
    store.give_back()

    def room_after(steps: int) -> float:
        for _ in range(steps):
            store.next_step("a")
            store.next_step("")  # nobody makes a step
        return store.max_bytes / BYTES

    assert room_after(RECOVERY_STEPS - 1) == 7.2
    store.give_back()
    assert room_after(RECOVERY_STEPS - 1) == 7.2, "counted from the last shortage"
    assert room_after(1) == 8.2
    assert room_after(RECOVERY_STEPS) == 9.2
    assert room_after(2 * RECOVERY_STEPS) == 10
