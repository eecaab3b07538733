"""The engine's promises: joining, isolation, order, the cache, segments, cancellation, memory, limits."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from qwen_edit.clock import StepClock
from qwen_edit.conditioning.texts import Prompts
from qwen_edit.errors import BadRequest, Cancelled, Draining, Failed, QueueFull

from tests.kit.engines import TestEngine, difference, edit, engine_on, load_pipeline
from tests.kit.in_process import run_in_segments, wait_until

BOUND = 1e-4


@pytest.fixture(scope="module")
def pipeline(sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive("plus-2511"))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline) as running:
        yield running


@pytest.fixture
def cat(photo: Callable[[str], bytes]) -> bytes:
    return photo("cat")


def test_a_short_edit_that_arrives_later_finishes_first_and_the_long_one_misses_no_step(
    engine: TestEngine, cat: bytes
) -> None:
    batches = engine.worker.batches
    long, short = edit(cat, num_inference_steps=50), edit(cat, num_inference_steps=4)
    long_answer = engine.submit(long)
    wait_until(lambda: len(batches) >= 5)
    short_answer = engine.submit(short)
    long_answer.wait()
    short_answer.wait()
    assert short_answer.answered_at < long_answer.answered_at
    shared = [batch for batch in batches if short.id in batch]
    assert len(shared) == 4
    assert all(long.id in batch for batch in batches)
    assert len(batches) == 50


def test_edits_of_other_sizes_and_references_share_their_forwards(
    engine: TestEngine, cat: bytes, photo: Callable[[str], bytes]
) -> None:
    hold = threading.Event()
    _hold_first_step(engine, hold)
    steps = {"num_inference_steps": 30}
    requests = [
        edit(cat, size=(64, 64), **steps),
        edit(cat, photo("coffee"), size=(128, 64), **steps),
        edit(cat, size=(96, 160), **steps),
    ]
    answers = [engine.submit(request) for request in (edit(cat, num_inference_steps=2), *requests)]
    wait_until(lambda: engine.worker.prepared == 4)
    hold.set()
    for answer in answers:
        answer.wait()
    assert {request.id for request in requests} in map(set, engine.worker.batches)


def test_a_forward_takes_the_first_and_who_keeps_it_within_the_budget(pipeline: Any, cat: bytes) -> None:
    small, large = edit(cat, size=(64, 64), num_inference_steps=8), edit(cat, size=(512, 512), num_inference_steps=2)
    with engine_on(pipeline, max_batch_tokens=1024) as engine:
        hold = threading.Event()
        _hold_first_step(engine, hold)
        answers = [engine.submit(request) for request in (small, large, edit(cat, size=(64, 64)))]
        wait_until(lambda: engine.worker.prepared == 3)
        hold.set()
        for answer in answers:
            answer.wait()
    assert {len(batch) for batch in engine.worker.batches if small.id in batch} <= {1, 2}
    assert all(batch == [large.id] for batch in engine.worker.batches if large.id in batch)
    assert answers[0].answered_at < answers[1].answered_at


class Explosive(torch.Tensor):
    """A text embedding that makes every forward it takes part in raise."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("this tensor raises")


def test_in_a_batch_of_eight_a_poisoned_and_a_raising_edit_fail_alone(pipeline: Any, cat: bytes) -> None:
    requests = [
        edit(cat, prompt=f"variant {number} " + "long " * number, seed=number, num_inference_steps=30)
        for number in range(8)
    ]
    with engine_on(pipeline) as alone:
        solo = {request.id: alone.latents(request) for request in requests}

    with engine_on(pipeline) as engine:

        def fill_with_nan(state: Any) -> None:
            state.text = torch.full_like(state.text, float("nan"))

        def make_raise(state: Any) -> None:
            state.text = torch.zeros_like(state.text).as_subclass(Explosive)

        engine.worker.encoded = {requests[2].id: fill_with_nan, requests[5].id: make_raise}
        hold = threading.Event()
        _hold_first_step(engine, hold)
        engine.submit(edit(cat, num_inference_steps=2))
        answers = [engine.submit(request) for request in requests]
        wait_until(lambda: engine.worker.prepared == 9)
        hold.set()
        for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            if number in (2, 5):
                with pytest.raises(Failed, match="model"):
                    answer.wait()
            else:
                answer.wait()
                assert difference(engine.final_latents[request.id], solo[request.id]) <= BOUND
        wait_until(lambda: engine.watch.edits == {"finished": 7, "failed": 2})
        assert max(jobs for jobs, _ in engine.watch.batches) >= 6


def _hold_first_step(engine: TestEngine, hold: threading.Event) -> None:
    """The first step waits, so that all edits sent meanwhile are encoded together after it."""

    def wait() -> None:
        assert hold.wait(20)

    engine.worker.before_step = wait


def _slow_steps(engine: TestEngine, until: threading.Event) -> None:
    """Every step takes a tenth of a second longer, until the event is set: 100 steps outlast whatever else happens."""
    engine.worker.before_step = lambda: until.wait(0.1)


def test_what_was_encoded_for_one_caller_is_not_found_by_another(engine: TestEngine, cat: bytes) -> None:
    counts = []
    for caller in ("one", "one", "another", ""):
        engine.submit(edit(cat, caller=caller)).wait()
        wait_until(lambda: engine.watch.held == (0, 0))
        counts.append(engine.watch.cache_counts[1])
    first = counts[0]
    assert counts == [first, first, 2 * first, 3 * first]


def test_eight_variants_of_one_picture_encode_it_once(engine: TestEngine, cat: bytes) -> None:
    for answer in [engine.submit(edit(cat, seed=seed)) for seed in range(8)]:
        answer.wait()
    wait_until(lambda: engine.watch.held == (0, 0))
    hits, misses = engine.watch.cache_counts
    assert misses == 2  # one text with its picture, one picture
    assert hits == 14


def test_guided_variants_encode_the_negative_prompt_once_more(engine: TestEngine, cat: bytes) -> None:
    for answer in [engine.submit(edit(cat, seed=seed, true_cfg_scale=4.0)) for seed in range(3)]:
        answer.wait()
    wait_until(lambda: engine.watch.held == (0, 0))
    assert engine.watch.cache_counts == (6, 3)


def test_two_prompts_of_equal_length_do_not_collide_in_the_cache(pipeline: Any, cat: bytes) -> None:
    green, blue = edit(cat, prompt="make it red"), edit(cat, prompt="make it tan")
    with engine_on(pipeline) as engine:
        first, second = engine.latents(green), engine.latents(blue)
    with engine_on(pipeline) as fresh:
        assert difference(fresh.latents(blue), second) <= BOUND
    assert difference(first, second) > BOUND


def test_two_pictures_of_equal_size_do_not_collide_in_the_cache(pipeline: Any, photo: Callable[[str], bytes]) -> None:
    def square(name: str) -> bytes:
        file = io.BytesIO()
        Image.open(io.BytesIO(photo(name))).resize((100, 100)).save(file, "PNG")
        return file.getvalue()

    first, second = edit(square("cat")), edit(square("rocket"))
    with engine_on(pipeline) as engine:
        engine.latents(first)
        ours = engine.latents(second)
    with engine_on(pipeline) as fresh:
        assert difference(fresh.latents(second), ours) <= BOUND


def test_without_room_in_the_cache_edits_still_share_what_running_ones_hold(pipeline: Any, cat: bytes) -> None:
    with engine_on(pipeline, cache_bytes=0) as engine:
        hold = threading.Event()
        _hold_first_step(engine, hold)
        answers = [engine.submit(edit(cat, seed=seed)) for seed in range(4)]
        wait_until(lambda: engine.worker.prepared == 4)
        hold.set()
        for answer in answers:
            answer.wait()
        wait_until(lambda: engine.watch.held == (0, 0))
        assert engine.watch.cache_counts == (6, 2)


@pytest.mark.parametrize("cuts", [[3], [1, 2, 9], [5, 6, 7, 8, 9], list(range(1, 10))], ids=str)
@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
def test_an_edit_in_segments_equals_the_one_in_one_piece_to_the_last_bit(
    pipeline: Any, cat: bytes, cuts: list[int], guidance: float
) -> None:
    whole = edit(cat, num_inference_steps=10, seed=3, true_cfg_scale=guidance)
    with engine_on(pipeline) as engine:
        picture = engine.submit(whole).wait().image
    latents: npt.NDArray[np.float32] | None = None
    for start, stop in zip([0, *cuts], [*cuts, 10], strict=True):
        with engine_on(pipeline) as fresh:
            part = edit(
                cat, num_inference_steps=10, seed=3, true_cfg_scale=guidance, start_step=start, stop_step=stop,
                latents=latents,
            )  # fmt: skip
            outcome = fresh.submit(part).wait()
        latents = outcome.latents
        assert outcome.step == stop
        assert (outcome.image is None) == (stop < 10)
    assert picture is not None
    assert outcome.image is not None
    assert np.array_equal(outcome.image, picture)


def test_a_segment_in_other_company_equals_the_undisturbed_run(pipeline: Any, cat: bytes) -> None:
    whole = edit(cat, num_inference_steps=10, seed=3)
    with engine_on(pipeline) as engine:
        reference = engine.latents(whole)
    with engine_on(pipeline) as engine:
        first = engine.submit(edit(cat, num_inference_steps=10, seed=3, stop_step=4)).wait()
        company = [engine.submit(edit(cat, prompt="other " * 9, seed=9, num_inference_steps=100)) for _ in range(3)]
        wait_until(lambda: engine.watch.held[1] > 0)
        rest = edit(cat, num_inference_steps=10, seed=3, start_step=4, latents=first.latents)
        assert difference(engine.latents(rest), reference) <= BOUND
        for answer in company:
            answer.wait()
        assert max(jobs for jobs, _ in engine.watch.batches) >= 3


def test_a_preview_nears_the_picture_as_the_steps_go(engine: TestEngine, cat: bytes) -> None:
    whole = edit(cat, num_inference_steps=12, size=(128, 64))
    picture = engine.submit(whole).wait().image
    assert picture is not None
    distances = []
    for stop in (2, 6, 11):
        outcome = engine.submit(edit(cat, num_inference_steps=12, size=(128, 64), stop_step=stop, preview=128)).wait()
        assert outcome.preview is not None
        distances.append(float(((outcome.preview.astype(float) - picture) ** 2).mean()))
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize(("longest", "shape"), [(64, (32, 64, 3)), (16, (8, 16, 3)), (1024, (64, 128, 3))])
def test_a_preview_is_no_longer_than_was_asked(
    engine: TestEngine, cat: bytes, longest: int, shape: tuple[int, ...]
) -> None:
    outcome = engine.submit(edit(cat, size=(128, 64), stop_step=2, preview=longest)).wait()
    assert outcome.preview is not None
    assert outcome.preview.shape == shape


def test_latents_of_another_size_are_refused(engine: TestEngine, cat: bytes) -> None:
    wrong = edit(cat, start_step=1, latents=np.zeros((3, 64), np.float32))
    with pytest.raises(BadRequest, match=r"latents: shape \[3, 64\]: \[16, 64\]"):
        engine.submit(wrong).wait()


def test_a_cancelled_edit_leaves_between_two_steps(engine: TestEngine, cat: bytes) -> None:
    batches = engine.worker.batches
    request = edit(cat, num_inference_steps=100)
    answer = engine.submit(request)
    wait_until(lambda: len(batches) >= 3)
    answer.cancel = True
    with pytest.raises(Cancelled):
        answer.wait()
    assert len(batches) < 100
    assert engine.watch.edits == {"cancelled": 1}


def test_the_last_step_of_a_cancelled_edit_is_told_though_none_follows(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where the clock tells of a step when the next one is under way, it and its edit would stay."""
    settled = threading.Event()
    monkeypatch.setattr(StepClock, "settle", lambda clock: settled.set())
    with engine_on(pipeline) as engine:
        answer = engine.submit(edit(cat, num_inference_steps=100))
        wait_until(lambda: len(engine.worker.batches) >= 3)
        settled.clear()
        answer.cancel = True
        with pytest.raises(Cancelled):
            answer.wait()
        assert settled.wait(20)


def test_a_waiting_edit_can_be_cancelled(pipeline: Any, cat: bytes) -> None:
    with engine_on(pipeline, max_batch_tokens=1) as engine:
        batches = engine.worker.batches
        left = threading.Event()
        _slow_steps(engine, left)
        running = engine.submit(edit(cat, num_inference_steps=100))
        wait_until(lambda: len(batches) >= 1)
        waiting = engine.submit(edit(cat))
        waiting.cancel = True
        with pytest.raises(Cancelled):
            waiting.wait()
        assert not running.answered_at
        left.set()
        running.wait()


def test_a_call_that_is_sent_again_takes_the_place_of_its_predecessor(pipeline: Any, cat: bytes) -> None:
    call = edit(cat, id="a.1", edit_id="a", num_inference_steps=8)
    again = replace(call, id="a.2")
    with engine_on(pipeline, max_jobs=1) as engine:
        hold = threading.Event()
        _hold_first_step(engine, hold)
        first = engine.submit(call)
        wait_until(lambda: engine.worker.batches != [])
        second = engine.submit(again)
        with pytest.raises(QueueFull):
            engine.submit(edit(cat))
        hold.set()
        with pytest.raises(Cancelled):
            first.wait()
        second.wait()
        wait_until(lambda: engine.watch.edits == {"cancelled": 1, "refused": 1, "finished": 1})
        assert engine.worker.batches == [["a.1"], *[["a.2"]] * 8]


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"arrival": -99.0}, {"dated": False}, {"edit_id": "b"}, {"id": "a.1"}],
    ids=lambda other: str(*other),
)
def test_an_edit_that_only_looks_like_a_repeated_call_takes_nobodys_place(
    pipeline: Any, cat: bytes, other: dict[str, Any]
) -> None:
    call = edit(cat, id="a.1", edit_id="a")
    with engine_on(pipeline) as engine:
        hold = threading.Event()
        _hold_first_step(engine, hold)
        answers = [engine.submit(call), engine.submit(replace(call, **({"id": "a.2"} | other)))]
        hold.set()
        for answer in answers:
            answer.wait()


def test_more_edits_than_max_jobs_are_refused_at_once_and_a_continued_one_is_taken(pipeline: Any, cat: bytes) -> None:
    with engine_on(pipeline) as before:
        stopped = before.submit(edit(cat, num_inference_steps=10, stop_step=5)).wait()
    with engine_on(pipeline, max_jobs=8) as engine:
        hold = threading.Event()
        _hold_first_step(engine, hold)
        answers = [engine.submit(edit(cat)) for _ in range(8)]
        for _ in range(12):
            with pytest.raises(QueueFull, match="at most 8"):
                engine.submit(edit(cat))
        continued = engine.submit(edit(cat, num_inference_steps=10, start_step=5, latents=stopped.latents))
        hold.set()
        for answer in [*answers, continued]:
            answer.wait()
        engine.submit(edit(cat)).wait()
    assert engine.watch.edits["refused"] == 12


def test_while_draining_new_edits_are_refused_and_continued_ones_taken(engine: TestEngine, cat: bytes) -> None:
    stopped = engine.submit(edit(cat, num_inference_steps=10, stop_step=5)).wait()
    engine.engine.drain()
    with pytest.raises(Draining):
        engine.submit(edit(cat))
    continued = edit(cat, num_inference_steps=10, start_step=5, latents=stopped.latents)
    assert engine.submit(continued).wait().image is not None


def test_edits_in_segments_finish_in_the_order_of_their_arrival(pipeline: Any, cat: bytes) -> None:
    requests = [edit(cat, num_inference_steps=10, size=(256, 256), seed=number) for number in range(12)]
    with engine_on(pipeline, max_batch_tokens=1, stretch=0.0) as engine:
        ended, _ = run_in_segments(engine.engine, requests, segments=5)
        assert max(jobs for jobs, _ in engine.watch.batches) == 1
    assert ended == sorted(ended)


def limited_memory(pipeline: Any, monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    """A transformer that runs out of memory beyond so many rows; the row counts it was asked for."""
    asked: list[int] = []
    forward = pipeline.transformer.forward

    def limited(**inputs: Any) -> Any:
        asked.append(len(inputs["rows"]))
        if asked[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    monkeypatch.setattr(pipeline.transformer, "forward", limited)
    return asked


def test_out_of_memory_halves_the_batch_until_it_fits(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [edit(cat, seed=seed) for seed in range(8)]
    with engine_on(pipeline) as alone:
        solo = {request.id: alone.latents(request) for request in requests}
    asked = limited_memory(pipeline, monkeypatch, rows=3)
    with engine_on(pipeline) as engine:
        hold = threading.Event()
        _hold_first_step(engine, hold)
        answers = [engine.submit(request) for request in requests]
        wait_until(lambda: engine.worker.prepared == 8)
        hold.set()
        for request, answer in zip(requests, answers, strict=True):
            answer.wait()
            assert difference(engine.final_latents[request.id], solo[request.id]) <= BOUND
    assert max(asked) > 3
    assert sum(rows > 3 for rows in asked) <= 3, "the smaller budget is remembered"


def test_a_guided_edit_that_does_not_fit_runs_its_two_rows_one_after_the_other(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = edit(cat, true_cfg_scale=4.0)
    with engine_on(pipeline) as alone:
        solo = alone.latents(request)
    asked = limited_memory(pipeline, monkeypatch, rows=1)
    with engine_on(pipeline) as engine:
        assert difference(engine.latents(request), solo) <= BOUND
    assert asked.count(2) == 1, "that they do not fit is remembered"


def test_an_edit_too_large_for_the_memory_alone_is_told_so(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_memory(pipeline, monkeypatch, rows=0)
    with engine_on(pipeline) as engine, pytest.raises(Failed, match="out of memory: ask for a smaller size"):
        engine.submit(edit(cat)).wait()


def test_a_prompt_over_the_limit_is_refused_and_seven_edits_beside_it_are_untouched(pipeline: Any, cat: bytes) -> None:
    requests = [edit(cat, prompt=f"edit number {number}", seed=number) for number in range(7)]
    with engine_on(pipeline) as alone:
        solo = {request.id: alone.latents(request) for request in requests}
    with engine_on(pipeline) as engine:
        hold = threading.Event()
        _hold_first_step(engine, hold)
        answers = [engine.submit(request) for request in requests]
        too_long = engine.submit(edit(cat, prompt="x y " * 6000))
        with pytest.raises(BadRequest, match=r"prompt: text and pictures take \d+ text positions: at most 40\d\d"):
            too_long.wait()
        hold.set()
        for request, answer in zip(requests, answers, strict=True):
            answer.wait()
            assert difference(engine.final_latents[request.id], solo[request.id]) <= BOUND


def test_a_long_negative_prompt_is_refused_by_its_own_name(engine: TestEngine, cat: bytes) -> None:
    with pytest.raises(BadRequest, match=r"negative_prompt: text and pictures take"):
        engine.submit(edit(cat, true_cfg_scale=2.0, negative_prompt="x y " * 6000)).wait()


@pytest.mark.parametrize("text", ["<|image_pad|>", "a <|im_end|> b", "<|im_<|im_end|>end|>", "<|vision_start|>" * 5])
def test_control_tokens_in_a_prompt_are_text(engine: TestEngine, cat: bytes, text: str) -> None:
    assert engine.submit(edit(cat, prompt=text)).wait().image is not None
    tokenizer = engine.pipeline.parts.tokenizer
    ids = tokenizer(Prompts(engine.pipeline).neutral(text))["input_ids"]
    assert not set(ids) & set(tokenizer.get_added_vocab().values())


def test_the_answer_tells_what_was_done(engine: TestEngine, cat: bytes) -> None:
    outcome = engine.submit(edit(cat, true_cfg_scale=4.0)).wait()
    assert outcome.timings.keys() == {
        "queue", "encode", "denoise", "decode", "rows", "cache_hit", "named", "order", "text_tokens", "image_tokens",
        "output_tokens", "skipped", "history", "adapters",
    }  # fmt: skip
    assert outcome.timings["rows"] == 2
    assert outcome.timings["output_tokens"] == 16
    assert outcome.timings["cache_hit"] is False
    assert engine.submit(edit(cat, true_cfg_scale=4.0)).wait().timings["cache_hit"] is True


def test_how_long_an_edit_waited_is_counted_once_whatever_its_segments(engine: TestEngine, cat: bytes) -> None:
    run_in_segments(engine.engine, [edit(cat, num_inference_steps=4)], segments=2)
    assert engine.watch.begun == {True: 1, False: 1}
    assert engine.watch.first_steps == 1
