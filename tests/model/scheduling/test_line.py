"""Order, refusals and turns, on the simulator: nothing here takes a step of a model, and no clock is read."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.simulated import BUDGET, SECONDS_PER_TOKEN, Engine, Fate, Simulation, Wish

FULL = 20_000  # tokens of an edit that fills a forward
FORWARD = FULL * SECONDS_PER_TOKEN


@st.composite
def crowds(draw: st.DrawFn) -> list[Wish]:
    """Up to five times what can be done, of small and large edits, of a few callers."""
    count = draw(st.integers(1, 60))
    gap = draw(st.sampled_from([0.5, 3.0, 15.0]))
    at, wishes = 0.0, []
    for _ in range(count):
        at += draw(st.floats(0, 2)) * gap
        wishes.append(
            Wish(
                at,
                steps=draw(st.sampled_from([2, 8, 20, 50])),
                tokens=draw(st.sampled_from([900, 3_000, 7_000, FULL])),
                caller=draw(st.sampled_from(["", "a", "b", "c"])),
                patience=draw(st.sampled_from([60.0, 290.0])),
            )
        )
    return wishes


@settings(deadline=None, max_examples=60)
@given(crowds(), st.sampled_from([0.0, 3.0]))
def test_while_the_pace_holds_nobody_who_is_taken_is_late(wishes: list[Wish], stretch: float) -> None:
    tried_alone = {fate.name for fate in Simulation(wishes, [Engine(stretch)]).run() if _impossible(fate.wish)}
    fates = Simulation(wishes, [Engine(stretch)]).run()
    taken = [fate for fate in fates if fate.refused is None]
    assert not [fate for fate in taken if fate.late and fate.name not in tried_alone]
    assert all(fate.steps == fate.wish.steps for fate in taken if not fate.died), "nobody starves"


def _impossible(wish: Wish) -> bool:
    """Takes longer than its caller waits; tried nevertheless where it is the only one."""
    return wish.work > wish.patience


@settings(deadline=None, max_examples=60)
@given(crowds())
def test_who_shares_a_forward_keeps_it_within_the_budget(wishes: list[Wish]) -> None:
    for fate in Simulation(wishes, [Engine()]).run():
        assert all(tokens <= max(BUDGET, fate.wish.tokens) for tokens in fate.companies)


@settings(deadline=None, max_examples=60)
@given(crowds(), st.integers(0, 2**30))
def test_a_places_number_is_the_same_wherever_the_segments_go(wishes: list[Wish], seed: int) -> None:
    """Of two engines one gets every first segment; the others go anywhere. The places are those of one engine alone."""
    draw = random.Random(seed)
    wishes = [replace(wish, caller="", patience=3600.0) for wish in wishes]
    engines = [Engine(), Engine()]
    wandering = Simulation(
        wishes, engines, segment_steps=4, where=lambda edit, segment: draw.randrange(2) if segment else 0
    )
    assert all(len(fate.places) == 1 for fate in wandering.run())


def test_without_stretch_one_caller_is_served_first_come_first_served() -> None:
    wishes = [Wish(0.1 * number, steps=2 + 7 * number % 20, caller="a", patience=9e9) for number in range(12)]
    fates = Simulation(wishes, [Engine(stretch=0)]).run()
    ended = [fate.ended for fate in fates]
    assert None not in ended
    assert ended == sorted(ended, key=lambda end: end or 0)


SHORT, MIDDLE, LONG = 2, 20, 50  # steps: 1.3, 13 and 32 seconds


def arriving(load: float, seconds: float, seed: int, patience: float = 290.0) -> list[Wish]:
    """At random moments, as much work a second as `load` says; most are short. Patience is some edits long."""
    draw = random.Random(seed)
    kinds, weights = (SHORT, MIDDLE, LONG), (8, 1, 1)
    mean = sum(Wish(0, kind).work * weight for kind, weight in zip(kinds, weights, strict=True)) / sum(weights)
    at, wishes = 0.0, []
    while at < seconds:
        wishes.append(Wish(at, draw.choices(kinds, weights)[0], patience=patience))
        at += draw.expovariate(load / mean)
    return wishes


def latencies(fates: list[Fate], steps: int = 0) -> list[float]:
    return [fate.ended - fate.wish.at for fate in fates if fate.ended is not None and steps in (0, fate.wish.steps)]


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5, 3.0, 5.0])
def test_at_any_load_what_is_begun_is_delivered_and_the_engine_is_busy(load: float) -> None:
    engine = Engine()
    fates = Simulation(arriving(load, 900, seed=1), [engine], segment_steps=10).run()
    assert not [fate for fate in fates if fate.late]
    assert sum(fate.steps for fate in fates) == sum(fate.wish.steps for fate in fates if fate.ended)
    if load < 1:
        assert not [fate for fate in fates if fate.refused]
    if load > 1:
        assert engine.busy > 0.95 * (engine.now - fates[0].wish.at)


def test_short_edits_before_long_ones_end_sooner_on_average_and_the_longest_not_much_later() -> None:
    wishes = arriving(0.85, 20_000, seed=2)
    ours, first_come = (Simulation(wishes, [Engine(stretch)], segment_steps=10).run() for stretch in (3.0, 0.0))
    assert statistics.mean(latencies(ours)) < 0.6 * statistics.mean(latencies(first_come))
    late, before = (statistics.quantiles(latencies(fates, LONG), n=20)[-1] for fates in (ours, first_come))
    assert late < 1.6 * before


def test_a_short_edit_that_arrives_during_a_long_one_has_its_first_step_within_two_forwards_and_ends_first() -> None:
    """Also where both are the same caller's."""
    for caller in ("", "a"):
        wishes = [Wish(0, 50, caller=caller), Wish(10.5 * FORWARD, 4, caller=caller)]
        long, short = Simulation(wishes, [Engine()], segment_steps=10).run()
        assert short.first_step is not None
        assert short.first_step <= wishes[1].at + 2 * FORWARD
        assert short.ended is not None
        assert long.ended is not None
        assert short.ended < long.ended


def waits_of_the_second(first: list[Wish], greed: str) -> float:
    """Longest wait of the edits that another caller sends one after the other, in seconds."""
    second = [Wish(7.0 + 100.0 * number, 20, caller="second", patience=2000.0) for number in range(20)]
    fates = Simulation([*first, *second], [Engine(max_jobs=64)], segment_steps=10).run()
    mine = [fate for fate in fates if fate.wish.caller == "second"]
    assert not [fate for fate in mine if fate.refused], greed
    return max(fate.first_step - fate.wish.at for fate in mine if fate.first_step is not None)


def test_a_greedy_caller_makes_nobody_wait_much_longer_than_a_modest_one() -> None:
    modest = [Wish(50.0 * number, 20, caller="first", patience=2000.0) for number in range(40)]
    greedy = [
        Wish(number * 25.0, 20, caller="first", patience=2000.0, request=f"g{number}", siblings=10)
        for number in range(80)
        for _ in range(10)
    ]
    assert waits_of_the_second(greedy, "greedy") <= 2 * max(waits_of_the_second(modest, "modest"), 40.0)


def test_who_comes_back_when_he_was_told_is_taken_if_nobody_else_came() -> None:
    told = 0
    for seed in range(20):
        wishes = arriving(2.0, 400, seed)
        refused = next((fate for fate in Simulation(wishes, [Engine()]).run() if fate.refused), None)
        if refused is None or refused.refused in (None, 60):
            continue
        told += 1
        before = [wish for wish in wishes if wish.at < refused.wish.at]
        again = replace(refused.wish, at=refused.wish.at + refused.refused + FORWARD)  # one was under way
        *_, second = Simulation([*before, again], [Engine()]).run()
        assert second.refused is None
    assert told > 5


def test_siblings_are_taken_together_or_not_at_all() -> None:
    """Any of ten would be done in time, and all of them not."""
    one = Wish(1.0, 50, caller="a")
    ten = [replace(one, request="ten", siblings=10)] * 10
    assert Simulation([Wish(0, 8), one], [Engine()]).run()[1].ended
    assert all(fate.refused for fate in Simulation([Wish(0, 8), *ten], [Engine()]).run()[1:])


def test_the_later_siblings_of_a_request_that_was_taken_have_their_time() -> None:
    four = [Wish(1.0 + 0.01 * number, 5, caller="a", patience=35.0, request="four", siblings=4) for number in range(4)]
    crowd = [Wish(1.005 + 0.01 * number, 5, caller=f"b{number}", patience=35.0) for number in range(9)]
    fates = Simulation([Wish(0, 2), *four, *crowd], [Engine()]).run()
    assert [fate.refused for fate in fates[1:5]] == [None] * 4
    assert any(fate.refused for fate in fates[5:])
    assert not [fate for fate in fates if fate.late]


def test_where_the_pace_falls_what_cannot_end_is_not_begun() -> None:
    fates = Simulation(arriving(1.5, 4_000, seed=3), [Engine(falls_at=1_000, slower=3.0)], segment_steps=10).run()
    died = [fate for fate in fates if fate.died]
    assert died
    assert sum(fate.steps for fate in died) < 0.03 * sum(fate.steps for fate in fates)
    assert not [fate for fate in fates if fate.ended is None and fate.refused is None and not fate.died]


def test_a_caller_has_his_share_of_the_places_and_never_the_last_ones() -> None:
    def held(callers: str) -> int:
        wishes = [Wish(0.001 * number, 2, caller=caller, patience=9e9) for number, caller in enumerate(callers)]
        fates = Simulation(wishes, [Engine(max_jobs=16)]).run()
        return sum(fate.refused is None for fate in fates if fate.wish.caller == "a")

    assert held("a" * 20) == 14
    assert held("b" + "a" * 20) == 8
    assert held("bc" + "a" * 20) == 5


def test_a_caller_who_has_nothing_there_finds_a_place_beside_one_who_takes_all() -> None:
    wishes = [*(Wish(0.001 * number, 2, caller="a", patience=9e9) for number in range(50)), Wish(0.1, 2, caller="b")]
    assert Simulation(wishes, [Engine(max_jobs=16)]).run()[-1].refused is None


def test_siblings_take_one_place_after_the_other() -> None:
    """Their time is kept for them, and no place."""
    four = [Wish(0.1, 4, caller="a", request="four", siblings=4)] * 4
    fates = Simulation([Wish(0, 20, caller="c"), *four, Wish(0.2, 2, caller="b")], [Engine(max_jobs=3)]).run()
    assert [fate.refused is None for fate in fates] == [True, True, True, False, False, False]
    fates = Simulation([Wish(0, 20, caller="c"), four[0], Wish(0.2, 2, caller="b")], [Engine(max_jobs=3)]).run()
    assert [fate.refused for fate in fates] == [None] * 3
