"""The line and the engine together: who goes first, who is refused, who is told that it is too late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qwen_edit.errors import Cancelled, QueueFull

from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline


@pytest.fixture(scope="module")
def pipeline(checkpoint: Callable[[str], Path]) -> Any:
    return load_pipeline(checkpoint("plus-2511"))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    """Each step serves one edit."""
    with engine_on(pipeline, max_batch_tokens=1) as running:
        yield running


@pytest.fixture
def cat(photo: Callable[[str], bytes]) -> bytes:
    return photo("cat")


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def slow(engine: TestEngine, cat: bytes, seconds: float) -> None:
    """A step takes so long from here, as the engine has seen."""
    engine.worker.before_step = lambda: time.sleep(seconds)
    engine.submit(edit(cat, num_inference_steps=20)).wait()


@pytest.mark.parametrize("caller", ["", "the same"])
def test_a_short_edit_has_the_next_step_though_a_long_one_came_before_and_ends_first(
    engine: TestEngine, photo: Callable[[str], bytes], cat: bytes, caller: str
) -> None:
    worker = engine.worker
    slow(engine, cat, 0.005)
    worker.batches.clear()

    pictures = 0

    def hold_the_tenth() -> None:
        nonlocal pictures
        if len(worker.batches) < 10:
            pictures = engine.watch.pictures
        if len(worker.batches) == 10:
            wait_until(lambda: engine.watch.pictures > pictures)  # which is told when the edit can be scheduled

    worker.before_step = hold_the_tenth
    long = edit(cat, num_inference_steps=50, caller=caller)
    long_answer = engine.submit(long)
    wait_until(lambda: len(worker.batches) == 10)
    short = edit(photo("rocket"), num_inference_steps=4, caller=caller, arrival=long.arrival + 0.0001)
    short_answer = engine.submit(short)
    long_answer.wait()
    assert short_answer.wait().image is not None
    before = worker.batches.index([short.id])
    assert 10 <= before < 50, "while the short one was encoded, the long one went on"
    assert worker.batches == [[long.id]] * before + [[short.id]] * 4 + [[long.id]] * (50 - before)


def test_an_edit_keeps_its_place_in_its_next_segment(engine: TestEngine, cat: bytes) -> None:
    first = edit(cat, num_inference_steps=8, stop_step=4)
    outcome = engine.submit(first).wait()
    order = outcome.timings["order"]
    place = time.monotonic() + order
    assert abs(place - first.arrival) < 5
    again = replace(first, start_step=4, stop_step=8, latents=outcome.latents, order=place)
    assert engine.submit(again).wait().timings["order"] < order


def test_who_would_end_too_late_is_refused_and_told_when_to_come(engine: TestEngine, cat: bytes) -> None:
    slow(engine, cat, 0.02)
    now = time.monotonic()
    taken = [engine.submit(edit(cat, num_inference_steps=50, arrival=now, deadline=now + 60.0)) for _ in range(2)]
    with pytest.raises(QueueFull, match=r"would not be done in time: retry in [0-9]+ s"):  # two seconds are before it
        engine.submit(edit(cat, num_inference_steps=30, order=now + 1000, deadline=now + 1.2))
    for answer in taken:
        answer.wait()
    wait_until(lambda: engine.watch.edits == {"finished": 3, "refused": 1})
    assert len(engine.worker.batches) == 120


def test_what_cannot_end_in_time_any_more_is_answered_without_a_step(engine: TestEngine, cat: bytes) -> None:
    slow(engine, cat, 0.005)
    engine.worker.before_step = lambda: time.sleep(0.1)
    now = time.monotonic()
    first = engine.submit(edit(cat, num_inference_steps=50, order=now - 1))
    doomed = edit(cat, num_inference_steps=50, order=now, deadline=now + 3.0)
    with pytest.raises(Cancelled, match="out of time"):
        engine.submit(doomed).wait()
    engine.worker.before_step = lambda: None
    first.wait()
    assert not [batch for batch in engine.worker.batches if doomed.id in batch]
    wait_until(lambda: engine.watch.edits == {"finished": 2, "cancelled": 1})


def test_who_is_alone_is_tried_whatever_is_foreseen(engine: TestEngine, cat: bytes) -> None:
    slow(engine, cat, 0.05)
    engine.worker.before_step = lambda: None
    assert engine.submit(edit(cat, num_inference_steps=50, deadline=time.monotonic() + 1.0)).wait().image is not None


STEPS = 8


@pytest.mark.parametrize(("requests", "outputs"), [(1, 1), (5, 10)], ids=["a modest", "a greedy"])
def test_beside_another_caller_an_edit_waits_for_what_is_under_way_and_for_nothing_else(
    engine: TestEngine, cat: bytes, requests: int, outputs: int
) -> None:
    """Counted in the others' steps before its own first one: beside five requests of ten outputs at most twice those
    beside one edit, which are what that has left. All arrive at once, though to send them takes this machine longer
    than some of them are worth."""
    worker = engine.worker
    slow(engine, cat, 0.02)  # so that all else that an edit needs is next to nothing, and the pace steady
    worker.batches.clear()
    sent = requests * outputs

    def hold_the_third() -> None:
        if len(worker.batches) == 3:
            wait_until(lambda: worker.prepared == sent + 2)
        time.sleep(0.02)

    worker.before_step = hold_the_third
    now = time.monotonic()
    of_first = edit(cat, num_inference_steps=STEPS, caller="first", siblings=outputs, arrival=now)
    first = [
        engine.submit(replace(of_first, id=f"r{request}-{output}", edit_id=f"r{request}-{output}"))
        for request in range(requests)
        for output in range(outputs)
    ]
    wait_until(lambda: len(worker.batches) == 3)
    second = edit(cat, num_inference_steps=STEPS, caller="second", arrival=now + 0.0001)
    assert engine.submit(second).wait().image is not None
    assert worker.batches.index([second.id]) <= 2 * STEPS
    worker.before_step = lambda: None
    for answer in first:
        answer.wait()
