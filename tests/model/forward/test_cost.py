"""The model of a forward's cost against forwards whose cost is known."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qwen_edit.forward.cost import ForwardCost

ROWS = st.lists(st.integers(1, 20_000), min_size=1, max_size=8)
EXACT = 1e-6


def true_seconds(rows: list[int], per_token: float, per_square: float) -> float:
    return sum(per_token * tokens + per_square * tokens**2 for tokens in rows)


PER_TOKEN = st.just(0.0) | st.floats(1e-7, 1e-4)
PER_SQUARE = st.floats(1e-12, 1e-8)


@given(st.lists(ROWS, min_size=3, max_size=20), ROWS, PER_TOKEN, PER_SQUARE)
def test_what_is_predicted_is_never_negative_and_is_right_for_what_was_seen(
    forwards: list[list[int]], unseen: list[int], per_token: float, per_square: float
) -> None:
    cost = ForwardCost()
    for rows in forwards:
        cost.observe(rows, true_seconds(rows, per_token, per_square))
    assert cost.seconds(unseen) >= 0
    for rows in forwards:
        assert cost.seconds(rows) == pytest.approx(true_seconds(rows, per_token, per_square), rel=0.01)


def test_sizes_that_were_never_seen_are_predicted() -> None:
    cost, noise = ForwardCost(), random.Random(0)
    for rows in ([2300], [2300, 2350], [8450, 300], [8450, 8700], [600] * 8):
        for _ in range(10):
            cost.observe(rows, true_seconds(rows, 2e-5, 1e-9) * noise.uniform(0.95, 1.05))
    for rows in ([4500, 700], [16_000], [100]):
        assert cost.seconds(rows) == pytest.approx(true_seconds(rows, 2e-5, 1e-9), rel=0.1)


def test_forwards_of_one_size_are_put_down_to_their_tokens() -> None:
    cost = ForwardCost()
    for count in (1, 2, 4):
        cost.observe([500] * count, 0.5 * count)
    assert cost.seconds([500]) == pytest.approx(0.5, rel=EXACT)
    assert cost.seconds([1000]) == pytest.approx(1.0, rel=EXACT)


@pytest.mark.parametrize("powers", [(0.5, 1.0), (3.0, 2.0)], ids=["sublinear", "cubic"])
def test_neither_share_is_negative_however_the_forwards_bend(powers: tuple[float, float]) -> None:
    """Where the best line would slope down, what is left is a fit by the other share alone."""
    power, expected = powers
    cost = ForwardCost()
    for tokens in (100, 200, 400, 800):
        cost.observe([tokens], tokens**power)
    assert cost.seconds([4000]) / cost.seconds([1000]) == pytest.approx(4**expected, rel=EXACT)


def test_forwards_of_long_ago_are_forgotten() -> None:
    cost = ForwardCost(window=10)
    for seconds in [1.0] * 50 + [2.0] * 10:
        cost.observe([100], seconds)
    assert cost.seconds([100]) == pytest.approx(2.0, rel=EXACT)


def test_before_the_first_forward_nothing_is_known() -> None:
    assert ForwardCost().seconds([100, 200]) == 0
