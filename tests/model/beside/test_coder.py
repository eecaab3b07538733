"""Encoding and decoding: beside the steps, one at a time, in the engine's order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.beside.shared_device import SharedDevice
from qwen_edit.errors import Cancelled, Failed
from qwen_edit.job import Job

from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline
from tests.kit.in_process import Answer, wait_until

KINDS = ["before_encoding", "before_decoding"]


@pytest.fixture(scope="module")
def pipeline(checkpoint: Callable[[str], Path]) -> Any:
    return load_pipeline(checkpoint("plus-2511"))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline) as running:
        yield running


@pytest.fixture
def cat(photo: Callable[[str], bytes]) -> bytes:
    return photo("cat")


class Held:
    """What a worker does for the edit of that id waits until it is released."""

    def __init__(self, engine: TestEngine, kind: str, edit_id: str) -> None:
        self.begun, self.release = threading.Event(), threading.Event()
        self.seen: list[str] = []

        def hold(job: Job) -> None:
            self.seen.append(job.request.id)
            if job.request.id == edit_id:
                self.begun.set()
                assert self.release.wait(20)

        setattr(engine.worker, kind, hold)

    def wait(self) -> None:
        assert self.begun.wait(20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_edit_makes_its_steps_while_another_is_encoded_or_decoded(
    engine: TestEngine, cat: bytes, kind: str
) -> None:
    batches, other = engine.worker.batches, edit(cat, num_inference_steps=2)
    held = Held(engine, kind, other.id)
    engine.worker.before_step = lambda: held.begun.wait(0.1)  # so that the running one has steps left then
    running = engine.submit(edit(cat, num_inference_steps=100))
    wait_until(lambda: batches != [])
    answer = engine.submit(other)
    held.wait()
    made = len(batches)
    wait_until(lambda: len(batches) >= made + 5)
    assert not answer.answered_at
    held.release.set()
    answer.wait()
    running.wait()


def test_whoever_is_first_is_decoded_or_encoded_first_and_one_at_a_time(pipeline: Any, cat: bytes) -> None:
    with engine_on(pipeline, stretch=0.0) as engine:
        first = edit(cat, num_inference_steps=2)
        held = Held(engine, "before_encoding", first.id)
        answers = [engine.submit(first)]
        held.wait()
        late, early = (edit(cat, num_inference_steps=2, arrival=first.arrival + after) for after in (2, 1))
        answers += [engine.submit(late), engine.submit(early)]
        wait_until(lambda: engine.worker.prepared == 3)
        assert held.seen == [first.id]
        held.release.set()
        for answer in answers:
            answer.wait()
        assert held.seen == [first.id, early.id, late.id]


def test_an_edit_that_is_encoded_waits_for_nobody_who_came_meanwhile(pipeline: Any, cat: bytes) -> None:
    with engine_on(pipeline) as engine:
        first, second = edit(cat), edit(cat)
        begun, others = threading.Event(), {first.id: threading.Event(), second.id: threading.Event()}

        def hold(job: Job) -> None:
            begun.set()
            assert others[job.request.id].wait(20)

        engine.worker.before_encoding = hold
        answers = [engine.submit(first)]
        assert begun.wait(20)  # else the two may be handed over together, and then they begin together
        answers.append(engine.submit(second))
        wait_until(lambda: engine.worker.prepared == 2)
        others[first.id].set()
        wait_until(lambda: [first.id] in engine.worker.batches)
        others[second.id].set()
        for answer in answers:
            answer.wait()


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_that_is_cancelled_before_its_turn_is_neither_encoded_nor_decoded(
    pipeline: Any, cat: bytes, kind: str
) -> None:
    with engine_on(pipeline, stretch=0.0) as engine:
        blocker = edit(cat, num_inference_steps=2)
        go = threading.Event()
        engine.worker.before_step = lambda: go.wait(20)
        held = Held(engine, kind, "first")
        answers: list[Answer] = [engine.submit(blocker)]
        wait_until(lambda: engine.worker.batches != [])
        answers += [engine.submit(edit(cat, id=name, num_inference_steps=2)) for name in ("first", "second")]
        wait_until(lambda: engine.worker.prepared == 3)
        go.set()
        held.wait()
        answers[2].cancel = True
        with pytest.raises(Cancelled):
            answers[2].wait()
        assert not answers[1].answered_at
        held.release.set()
        answers[1].wait()
        assert "second" not in held.seen
        wait_until(lambda: engine.watch.edits == {"finished": 2, "cancelled": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_a_drained_engine_ends_what_is_encoded_or_decoded(pipeline: Any, cat: bytes, kind: str) -> None:
    with engine_on(pipeline) as engine:
        last = edit(cat)
        held = Held(engine, kind, last.id)
        answer = engine.submit(last)
        held.wait()
        closing = threading.Thread(target=engine.engine.close)
        closing.start()
        held.release.set()
        closing.join(20)
        assert answer.wait().image is not None


def test_an_edit_that_fails_while_it_is_encoded_costs_a_running_one_nothing(engine: TestEngine, cat: bytes) -> None:
    def fail(job: Job) -> None:
        if job.request.id == "bad":
            raise ValueError("of this edit alone")

    engine.worker.before_encoding = fail
    running = engine.submit(edit(cat, num_inference_steps=30))
    with pytest.raises(Failed):
        engine.submit(edit(cat, id="bad")).wait()
    running.wait()
    wait_until(lambda: engine.watch.edits == {"finished": 1, "failed": 1})


def test_a_bug_outside_of_any_edit_ends_the_process_instead_of_leaving_it_without_a_thread_that_encodes(
    engine: TestEngine, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(outcome: str) -> None:
        raise ValueError(outcome)

    monkeypatch.setattr(engine.watch, "edit", fail)
    engine.submit(edit(cat))
    assert engine.process_ended.wait(20)


def test_a_step_that_runs_out_of_memory_beside_an_encoding_is_made_again_without_it(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the budget stays as it is: the forward is not what was too large."""
    forward, rows = pipeline.transformer.forward, []
    with engine_on(pipeline) as engine:
        other = edit(cat)
        held = Held(engine, "before_encoding", other.id)

        def short(**inputs: Any) -> Any:
            rows.append(len(inputs["rows"]))
            if held.begun.is_set() and not held.release.is_set():
                threading.Timer(0.2, held.release.set).start()
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(**inputs)

        monkeypatch.setattr(pipeline.transformer, "forward", short)
        engine.worker.before_step = lambda: held.begun.wait(0.1)
        running = engine.submit(edit(cat, true_cfg_scale=4.0, num_inference_steps=100))
        wait_until(lambda: rows != [])
        engine.submit(other).wait()
        running.wait()
    assert set(rows) <= {2, 3}, "never one row at a time"


def test_nobody_looks_for_what_fits_while_memory_is_given_back(engine: TestEngine, cat: bytes) -> None:
    at_it = threading.Lock()
    freed: list[bool] = []
    fitting = engine.worker.fitting

    def look(jobs: Any) -> Any:
        with at_it:
            threading.Event().wait(0.01)
            return fitting(jobs)

    def short(job: Job) -> None:
        if job.request.id == "short" and not freed:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine.worker.fitting = look  # type: ignore[method-assign]
    engine.worker.before_encoding = short
    engine.worker.before_freeing = lambda: freed.append(at_it.locked())
    running = engine.submit(edit(cat, num_inference_steps=50))
    wait_until(lambda: engine.worker.batches != [])
    engine.submit(edit(cat, id="short")).wait()
    running.wait()
    assert freed == [False]


def test_the_model_that_takes_turns_makes_no_step_while_another_is_encoded(pipeline: Any, cat: bytes) -> None:
    with engine_on(pipeline, takes_turns=True) as engine:
        other = edit(cat, num_inference_steps=2)
        running = engine.submit(edit(cat, num_inference_steps=100))
        wait_until(lambda: engine.worker.batches != [])
        seen: list[int] = []

        def count(job: Job) -> None:
            seen.append(len(engine.worker.batches))
            threading.Event().wait(0.1)
            seen.append(len(engine.worker.batches))

        engine.worker.before_encoding = count
        engine.submit(other).wait()
        running.wait()
    assert seen[0] == seen[1]


def test_who_wants_a_device_alone_waits_for_the_others_and_they_for_him() -> None:
    device = SharedDevice(lambda: None)
    happened: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with device.shared():
            inside.set()
            assert leave.wait(20)
            happened.append("the other left")
        with device.shared():
            happened.append("the other is back")

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(20)
    threading.Timer(0.05, leave.set).start()
    with device.alone() as had_company:
        assert had_company
        with device.shared(), device.alone() as again:
            assert not again
        happened.append("alone")
    thread.join(20)
    assert happened == ["the other left", "alone", "the other is back"]
