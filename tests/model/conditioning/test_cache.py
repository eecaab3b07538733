"""The conditioning cache: bounded in bytes, least recently used out first."""

from __future__ import annotations

from functools import partial

import torch
from qwen_edit.conditioning.cache import ConditioningCache

KILOBYTE = 256  # float32 values


def filled(value: int) -> torch.Tensor:
    return torch.full((KILOBYTE,), float(value))


def test_a_key_is_computed_once() -> None:
    cache, calls = ConditioningCache(10_000), []

    def compute() -> torch.Tensor:
        calls.append(1)
        return filled(1)

    assert cache.get("a", compute) is cache.get("a", compute)
    assert (len(calls), cache.hits, cache.misses, cache.bytes) == (1, 1, 1, 1024)


def test_the_least_recently_used_goes_first_and_the_bound_holds() -> None:
    cache = ConditioningCache(3 * 1024)
    for key in (1, 2, 3):
        cache.get(key, partial(filled, key))
    cache.get(1, lambda: filled(-1))
    cache.get(4, lambda: filled(4))
    assert [key in cache for key in (1, 2, 3, 4)] == [True, False, True, True]
    assert cache.bytes == 3 * 1024


def test_what_somebody_holds_is_found_after_it_left() -> None:
    cache = ConditioningCache(0)
    held = cache.get("a", lambda: filled(1))
    assert cache.bytes == 0
    assert cache.get("a", lambda: filled(2)) is held
    del held
    assert "a" not in cache


def test_cleared_it_holds_nothing() -> None:
    cache = ConditioningCache(10_000)
    cache.get("a", lambda: filled(1))
    cache.clear()
    assert cache.bytes == 0
    assert "a" not in cache


def test_what_is_kept_under_the_same_key_again_takes_the_place_of_the_former() -> None:
    cache = ConditioningCache(10_000)
    cache.keep("a", filled(1))
    later = torch.zeros(10)
    cache.keep("a", later)
    assert cache.find("a") is later
    assert cache.bytes == later.nbytes
    assert cache.find("b") is None
    assert (cache.hits, cache.misses) == (0, 0)
