"""The step cache: fewer forwards, and one picture however the edit is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_edit.errors import BadRequest
from qwen_edit.forward.resumed import left_by
from qwen_edit.forward.skipping import MOST_WITHOUT, computed, plan_at, skipped
from qwen_edit.hints import Hints, hints
from qwen_edit.job import Outcome
from qwen_edit.request import EditRequest
from qwen_edit.settings import MILD, OFF

from tests.kit.engines import TestEngine, difference, edit, engine_on, load_pipeline

BOUND = 1e-4
STEPS = 20


@pytest.fixture(scope="module")
def engine(sensitive: Callable[[str], Path]) -> Iterator[TestEngine]:
    with engine_on(load_pipeline(sensitive("plus-2511"))) as running:
        yield running


@pytest.fixture
def request_of(photo: Callable[[str], bytes]) -> EditRequest:
    return edit(photo("cat"), num_inference_steps=STEPS, cache=MILD, true_cfg_scale=4.0)


@given(st.integers(2, 200))
def test_the_plan_spares_a_third_of_the_steps_never_two_in_a_row_nor_any_of_few(steps: int) -> None:
    spared = skipped(steps, MILD)
    assert not spared & {step + 1 for step in spared}
    assert not spared & {0, steps - 1}
    assert (len(spared) > 0) == (steps > MOST_WITHOUT)
    assert computed(0, steps, steps, MILD) == steps - len(spared)
    assert skipped(steps, OFF) == frozenset()


@pytest.mark.parametrize("steps", [20, 40])
def test_an_edit_makes_its_steps_with_two_thirds_of_the_rows(engine: TestEngine, photo: Any, steps: int) -> None:
    before = len(engine.watch.batches)
    spared = engine.watch.steps_spared
    outcome = engine.submit(edit(photo("cat"), num_inference_steps=steps, cache=MILD)).wait()
    rows = sum(rows for _, rows in engine.watch.batches[before:])
    assert outcome.step == steps
    assert steps / rows >= 1.5
    assert rows + engine.watch.steps_spared - spared == steps
    assert outcome.timings["skipped"] == steps - rows


def test_it_changes_the_picture(engine: TestEngine, request_of: EditRequest) -> None:
    """Or the tests below would show nothing."""
    whole = engine.latents(replace(request_of, id="whole", cache=OFF))
    assert difference(engine.latents(request_of), whole) > 10 * BOUND


@pytest.mark.parametrize("length", [1, 3, 10])
def test_segments_make_the_same_latents_and_no_forward_more(
    engine: TestEngine, request_of: EditRequest, length: int
) -> None:
    whole = engine.latents(request_of)
    before = len(engine.watch.batches)
    latents = in_segments(engine, request_of, range(length, STEPS, length))
    assert difference(latents, whole) <= BOUND
    assert len(engine.watch.batches) - before == computed(0, STEPS, STEPS, MILD)


@given(seed=st.integers(0, 2**32), stops=st.sets(st.integers(1, STEPS - 1), max_size=4))
@settings(max_examples=5)
def test_company_and_segments_change_nothing(
    engine: TestEngine, photo: Callable[[str], bytes], seed: int, stops: set[int]
) -> None:
    alone = engine.latents(edit(photo("cat"), num_inference_steps=STEPS, cache=MILD, seed=seed))
    company = [
        engine.submit(edit(photo("coffee"), size=(96, 64), num_inference_steps=14, cache=cache))
        for cache in (MILD, OFF)
    ]
    request = edit(photo("cat"), num_inference_steps=STEPS, cache=MILD, seed=seed)
    assert difference(in_segments(engine, request, sorted(stops)), alone) <= BOUND
    for answer in company:
        answer.wait()


def test_where_the_history_is_lost_or_of_another_plan_the_step_is_computed(
    engine: TestEngine, request_of: EditRequest
) -> None:
    """After a server that knows of none: the picture is another, but a good one, and nothing is refused."""
    stopped = engine.submit(replace(request_of, id="first", stop_step=10)).wait()
    assert stopped.history is not None
    before = len(engine.watch.batches)
    rest = replace(request_of, id="rest", start_step=10, latents=stopped.latents, history=None)
    assert engine.submit(rest).wait().image is not None
    assert len(engine.watch.batches) - before == computed(10, STEPS, STEPS, MILD) + 1


def test_only_a_stop_before_a_spared_step_answers_a_history(engine: TestEngine, request_of: EditRequest) -> None:
    spared, made = (engine.submit(replace(request_of, id=f"to-{stop}", stop_step=stop)).wait() for stop in (4, 5))
    assert spared.history is not None
    assert spared.history.dtype == np.float32
    assert spared.latents is not None
    assert spared.history.shape == spared.latents.shape
    assert spared.timings["history"] == plan_at(4, STEPS, MILD) == "mild 20 4"
    assert made.history is None
    assert made.timings["history"] == ""


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        (np.zeros((16, 4), np.float32), "shape [16, 4]: [16, 16], that of the latents, is allowed"),
        (np.full((16, 16), np.nan, np.float32), "NaN or infinite values"),
        (np.full((16, 16), 2e4, np.float32), "values over 10000"),
    ],
)
def test_a_history_that_no_run_left_is_refused_by_name(history: npt.NDArray[np.float32], problem: str) -> None:
    values = {"latents": np.zeros((16, 16), np.float32), "history": history}
    with pytest.raises(BadRequest, match=re.escape(f"history: {problem}")):
        left_by(values, 4, plan="mild 20 4", history_of="mild 20 4")
    latents, taken = left_by(values, 4, plan="mild 20 4", history_of="mild 40 4")
    assert latents is not None
    assert taken is None


@pytest.mark.parametrize("value", ["strong", "", "MILD", 1, True, ["mild"]])
def test_another_preset_is_refused_by_name(value: object) -> None:
    with pytest.raises(BadRequest, match=r"^cache: .*off or mild"):
        hints(json.dumps({"cache": value}))


def test_no_preset_is_the_servers() -> None:
    assert hints("{}") == Hints()


def in_segments(engine: TestEngine, request: EditRequest, stops: Sequence[int]) -> npt.NDArray[np.float32]:
    outcome: Outcome | None = None
    for start, stop in zip([0, *stops], [*stops, request.num_inference_steps], strict=True):
        part = replace(request, id=f"{request.id}-{start}", start_step=start, stop_step=stop)
        if outcome is not None:
            part = replace(part, latents=outcome.latents, history=outcome.history)
        outcome = engine.submit(part).wait()
    return engine.final_latents[f"{request.id}-{start}"]
