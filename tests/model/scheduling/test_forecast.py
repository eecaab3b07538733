"""The order run forward, the places of an edit, and what the line remembers of those that are not here."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from qwen_edit.errors import QueueFull
from qwen_edit.job import Job
from qwen_edit.scheduling.forecast import InLine, alone, ends
from qwen_edit.scheduling.line import AWAY_SECONDS, RETURN_SECONDS, Line
from qwen_edit.scheduling.order import place_of

from tests.kit.engines import edit
from tests.kit.in_process import Answer
from tests.kit.simulated import BUDGET, SECONDS_PER_TOKEN, SteadyPace

FULL = 20_000  # tokens
FORWARD = FULL * SECONDS_PER_TOKEN


class Costly(SteadyPace):
    """A second for each encoding and decoding, a tenth between two segments."""

    def encode(self, row_tokens: Any) -> float:
        return 1.0

    def decode(self, row_tokens: Any) -> float:
        return 1.0

    def away(self) -> float:
        return 0.1


def in_line(place: float, steps: int, tokens: int = FULL, **more: Any) -> InLine:
    return InLine((place, "", 0), (tokens,), steps, **more)


def test_edits_that_fill_a_forward_end_one_after_the_other() -> None:
    second, first, third = in_line(2, 10), in_line(1, 5, encoded=True), in_line(3, 1)
    found = ends([second, first, third], 100.0, BUDGET, Costly())
    assert found[first] == pytest.approx(100 + 5 * FORWARD + 1)
    assert found[second] == pytest.approx(found[first] + 1 + 10 * FORWARD + 1)
    assert found[third] == pytest.approx(found[second] + 1 + FORWARD + 1)
    assert alone(third, Costly()) == pytest.approx(FORWARD + 2)


def test_edits_that_share_their_forwards_end_when_their_steps_are_made() -> None:
    short, long = in_line(1, 2, 5_000, encoded=True), in_line(2, 6, 7_000, encoded=True)
    found = ends([short, long], 0.0, BUDGET, SteadyPace())
    assert found[short] == pytest.approx(2 * 12_000 * SECONDS_PER_TOKEN)
    assert found[long] == pytest.approx(found[short] + 4 * 7_000 * SECONDS_PER_TOKEN)


def test_one_that_shares_no_forward_runs_by_itself() -> None:
    first, company = in_line(1, 2, 5_000, alone=True, encoded=True), in_line(2, 2, 5_000, encoded=True)
    found = ends([first, company], 0.0, BUDGET, SteadyPace())
    assert found[company] == pytest.approx(2 * found[first])


def test_whoever_comes_back_may_find_that_a_forward_of_others_has_just_begun() -> None:
    returning, other = in_line(1, 8, encoded=True, returns=3), in_line(2, 8, encoded=True)
    assert ends([returning], 0.0, BUDGET, Costly())[returning] == pytest.approx(8 * FORWARD + 1 + 3 * 0.1)
    both = ends([returning, other], 0.0, BUDGET, Costly())
    assert both[returning] == pytest.approx(8 * FORWARD + 1 + 3 * (0.1 + FORWARD))


@pytest.mark.parametrize(
    ("arrival", "work", "others", "place"),
    [
        (10, 2, [], 16),
        (10, 2, [(50, 2)], 56),
        (10, 2, [(50, 2), (90, 4)], 96),
        (10, 2, [(50, 4.1)], 16),
        (100, 2, [(50, 2)], 106),
    ],
    ids=["alone", "behind his last", "behind twice as long", "not behind longer ones", "the last is past"],
)
def test_an_edits_place(arrival: float, work: float, others: list[tuple[float, float]], place: float) -> None:
    assert place_of(arrival, work, others, stretch=3.0) == place


class Scene:
    """One line; `join` and `leave` are at the moments that a test says."""

    def __init__(self) -> None:
        self.pace = SteadyPace()
        self.line = Line(self.pace, max_jobs=64, stretch=3.0)
        self._numbers = itertools.count()

    def job(self, steps: int, **changes: Any) -> Job:
        number = next(self._numbers)
        changes = {
            "arrival": 0.0,
            "id": f"e{number}.0",
            "edit_id": f"e{number}",
            "num_inference_steps": steps,
        } | changes
        return Job(edit(b"x", **changes), Answer(), number, expected=(FULL,))

    def join(self, now: float, steps: int, **changes: Any) -> Job:
        job = self.job(steps, **changes)
        self.line.join(job, now, BUDGET)
        return job


def test_an_edit_between_two_segments_keeps_its_time_for_a_while() -> None:
    """A shorter one, which would go before it and make it late, is refused until it is plain that it left."""
    for wait, taken in [(AWAY_SECONDS / 2, False), (AWAY_SECONDS + 0.1, True)]:
        scene = Scene()
        first = scene.join(0.0, 50, stop_step=10, deadline=36.0)
        scene.line.leave(first, 0.0, stopped=True)
        if taken:
            scene.join(wait, 20)
            continue
        with pytest.raises(QueueFull, match="in time"):
            scene.join(wait, 20)
        again = scene.join(wait, 50, id="e0.1", edit_id="e0", start_step=10, order=first.place, deadline=36.0)
        assert again.place == first.place
        assert scene.pace.away() == pytest.approx(wait / 2)


def test_an_edit_between_two_segments_is_awaited_until_it_comes_or_for_long_enough_to_send_its_pictures() -> None:
    scene = Scene()
    for name in ("e0", "e1", ""):
        scene.line.leave(scene.join(0.0, 50, stop_step=10, edit_id=name), 0.0, stopped=True)
    scene.line.leave(scene.join(0.0, 50, edit_id="e2"), 0.0)
    assert scene.line.away(RETURN_SECONDS - 0.1) == 2
    scene.join(1.0, 50, id="e0.1", edit_id="e0", start_step=10)
    assert (scene.line.away(1.0), scene.line.away(RETURN_SECONDS)) == (1, 0)


def test_the_failure_of_one_sibling_ends_the_promise_to_the_others() -> None:
    scene = Scene()
    other = scene.join(0.0, 50)
    one = scene.join(0.0, 40, edit_id="r-0", siblings=5, deadline=400.0)
    with pytest.raises(QueueFull):
        scene.join(0.0, 40, order=1000.0, deadline=200.0)
    scene.line.leave(one, 0.0, failed=True)
    scene.join(0.0, 40, order=1000.0, deadline=200.0)
    assert other in scene.line.jobs


def test_what_would_end_too_late_is_not_worth_beginning_but_by_itself() -> None:
    scene = Scene()
    late = scene.join(0.0, 50, deadline=30.0)
    assert scene.line.worth_beginning(late, 0.0, BUDGET)
    assert not scene.line.too_late(late, 0.0)
    before = scene.join(0.0, 8, order=-100.0, deadline=100.0)
    assert scene.line.worth_beginning(before, 0.0, BUDGET)
    assert not scene.line.worth_beginning(late, 0.0, BUDGET)
    assert scene.line.too_late(late, 0.0)
    assert not scene.line.too_late(before, 100.0 - 8.1 * FORWARD)
    assert scene.line.too_late(before, 100.0 - 7.9 * FORWARD)


def test_a_waiting_edit_that_others_made_late_is_not_worth_beginning() -> None:
    scene = Scene()
    scene.join(0.0, 8, order=-100.0)
    waiting = scene.job(50, order=0.0, deadline=36.0)
    scene.line.jobs.add(waiting)
    assert not scene.line.too_late(waiting, 0.0)
    assert not scene.line.worth_beginning(waiting, 0.0, BUDGET)
    assert scene.line.worth_beginning(waiting, -5.0, BUDGET)


def test_a_call_that_is_sent_again_keeps_the_place_of_the_one_before() -> None:
    scene = Scene()
    first = scene.join(0.0, 50, id="a.1", edit_id="a", arrival=0.0)
    again = scene.join(9.0, 50, id="a.2", edit_id="a", arrival=0.5)
    assert again.place == first.place
    assert (first.replaced, again.replaced) == (True, False)
