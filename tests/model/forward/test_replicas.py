"""A step's rows dealt out to several transformers: who gets which, the same pictures, and one that fails."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from qwen_edit.errors import Failed
from qwen_edit.forward.replicas import Replicas, cost, deal
from qwen_edit.loading.assembly import replicas_of
from qwen_edit.pipeline import Pipeline
from qwen_edit.request import EditRequest
from qwen_edit.settings import Loading

from tests.kit.engines import (
    TestEngine,
    difference,
    edit,
    engine_on,
    load_pipeline,
    together_after_the_first_step,
)

BOUND = 1e-4
CPU = torch.device("cpu")
ILLEGAL = "CUDA error: an illegal memory access was encountered"


def test_a_guided_edits_two_rows_go_to_two() -> None:
    assert deal([100, 90], 2) == [[0], [1]]
    assert deal([100], 2) == [[0], []]


def test_a_long_row_is_worth_several_short_ones() -> None:
    short, long = cost(1000, 3072), cost(8000, 3072)
    assert long > 10 * short, "attention sees pairs"
    assert deal([short] * 4 + [long], 2) == [[4], [0, 1, 2, 3]]


@given(st.lists(st.integers(1, 10**6), max_size=20), st.integers(1, 8))
def test_all_are_dealt_out_and_no_hand_is_far_above_its_share(costs: list[int], hands: int) -> None:
    dealt = deal(costs, hands)
    assert sorted(number for hand in dealt for number in hand) == list(range(len(costs)))
    assert all(hand == sorted(hand) for hand in dealt)
    share = max(sum(costs) / hands, max(costs, default=0))
    assert max(sum(costs[number] for number in hand) for hand in dealt) <= 2 * share


@dataclass
class Watched:
    """An engine over two transformers on the CPU: what each was given, and how it is to fail."""

    engine: TestEngine
    transformers: list[torch.nn.Module]
    # Which, rows, on which thread, and whether it keeps nothing for gradients.
    forwards: list[tuple[int, int, str, bool]] = field(default_factory=list)
    failing: dict[int, Callable[[], None]] = field(default_factory=dict)  # which → called before each forward of it

    @property
    def rows(self) -> list[int]:
        """Of each."""
        return [sum(rows for which, rows, *_ in self.forwards if which == each) for each in range(2)]


@pytest.fixture(scope="module")
def two(sensitive: Callable[[str], Path]) -> Iterator[Watched]:
    yield from _two(sensitive("plus-2511"))


def _two(folder: Path) -> Iterator[Watched]:
    parts = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipelines = [pipeline for pipeline, _ in replicas_of(parts, Loading(), [CPU, CPU])]
    with engine_on(parts, replicas=Replicas(pipelines)) as engine:
        watched = Watched(engine, [pipeline.parts.transformer for pipeline in pipelines])
        for which, transformer in enumerate(watched.transformers):
            transformer.register_forward_pre_hook(noted(watched, which), with_kwargs=True)
        yield watched


def noted(watched: Watched, which: int) -> Callable[[Any, Any, dict[str, Any]], None]:
    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        inference = torch.is_inference_mode_enabled()
        watched.forwards.append((which, len(named["rows"]), threading.current_thread().name, inference))
        watched.failing.get(which, lambda: None)()

    return note


@pytest.fixture
def watched(two: Watched) -> Iterator[Watched]:
    two.forwards.clear()
    yield two
    two.failing.clear()
    two.engine.worker.before_step = lambda: None


@pytest.fixture(scope="module")
def crowd(photo: Callable[[str], bytes]) -> list[EditRequest]:
    """Of several sizes, numbers of references and steps, guided and not."""
    cat, coffee = photo("cat"), photo("coffee")
    return [
        edit(cat, true_cfg_scale=4.0, seed=1),
        edit(coffee, size=(96, 64), seed=2, num_inference_steps=6),
        edit(cat, coffee, size=(64, 128), true_cfg_scale=3.0, seed=3, num_inference_steps=3),
        edit(coffee, size=(128, 128), seed=4),
    ]


@pytest.fixture(scope="module")
def on_one(sensitive: Callable[[str], Path], crowd: Sequence[EditRequest]) -> list[npt.NDArray[Any]]:
    """What one transformer makes of each, alone."""
    with engine_on(load_pipeline(sensitive("plus-2511"))) as engine:
        return [engine.latents(request) for request in crowd]


def test_every_edit_is_one_transformers_alone(
    watched: Watched, crowd: Sequence[EditRequest], on_one: list[npt.NDArray[Any]]
) -> None:
    for request, expected in zip(crowd, on_one, strict=True):
        assert difference(watched.engine.latents(request), expected) <= BOUND
    assert all(inference for *_, inference in watched.forwards)


def test_and_in_company_of_which_each_has_several_rows(
    watched: Watched,
    crowd: Sequence[EditRequest],
    on_one: list[npt.NDArray[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = watched.engine.worker
    worker.prepared = worker.encodings = 0
    worker.batches.clear()
    together_after_the_first_step(watched.engine, len(crowd))
    for answer in [watched.engine.submit(request) for request in crowd]:
        answer.wait()
    for request, expected in zip(crowd, on_one, strict=True):
        assert difference(watched.engine.final_latents[request.id], expected) <= BOUND
    assert max(map(len, worker.batches)) >= 3, "they were meant to share steps"
    most = [max(rows for which, rows, *_ in watched.forwards if which == each) for each in range(2)]
    assert min(most) >= 2
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == [], "nothing was tried again"


def waited(barrier: threading.Barrier) -> None:
    barrier.wait(30)


def test_a_guided_edit_has_a_row_a_step_on_each_at_the_same_time(
    watched: Watched, crowd: Sequence[EditRequest]
) -> None:
    """Each waits in its forward for the other's: one after the other would never end."""
    both = threading.Barrier(2)
    watched.failing = dict.fromkeys(range(2), lambda: waited(both))
    watched.engine.latents(crowd[0])
    assert watched.rows == [4, 4]
    assert {rows for _, rows, *_ in watched.forwards} == {1}
    threads = {(which, thread.rsplit("_", 1)[0]) for which, _, thread, _ in watched.forwards}
    assert threads == {(0, "replica-0"), (1, "replica-1")}


def test_they_share_no_weights(watched: Watched) -> None:
    first, second = ({tensor.data_ptr() for tensor in each.parameters()} for each in watched.transformers)
    assert len(first) == len(second) > 0
    assert not first & second


def once(error: Exception) -> Callable[[], None]:
    errors = [error]

    def fail() -> None:
        if errors:
            raise errors.pop()

    return fail


def always(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [RuntimeError("broken"), torch.OutOfMemoryError("full")], ids=["error", "memory"])
@pytest.mark.parametrize("which", [0, 1])
def test_one_that_fails_costs_one_retry_of_its_rows(
    watched: Watched, crowd: Sequence[EditRequest], on_one: list[npt.NDArray[Any]], which: int, error: Exception
) -> None:
    watched.failing[which] = once(error)
    assert difference(watched.engine.latents(crowd[0]), on_one[0]) <= BOUND
    assert len(watched.forwards) == 2 * 4 + 1
    assert watched.rows[1 - which] == 4 + 1


def test_one_that_always_fails_leaves_its_work_to_the_other(
    watched: Watched, crowd: Sequence[EditRequest], on_one: list[npt.NDArray[Any]]
) -> None:
    watched.failing[1] = always(RuntimeError("broken"))
    assert difference(watched.engine.latents(crowd[2]), on_one[2]) <= BOUND
    assert watched.rows == [6, 3]


def test_one_that_is_always_short_of_memory_is_given_less(
    sensitive: Callable[[str], Path], crowd: Sequence[EditRequest], on_one: list[npt.NDArray[Any]]
) -> None:
    """By an engine of its own, which remembers that two rows did not fit."""
    for watched in _two(sensitive("plus-2511")):
        watched.failing[1] = always(torch.OutOfMemoryError("full"))
        assert difference(watched.engine.latents(crowd[0]), on_one[0]) <= BOUND
        asked = [which for which, *_ in watched.forwards].count(1)
        assert asked == 2, "from the second on one row at a time, by the first"


def test_where_both_fail_the_edit_fails_and_the_next_one_does_not(
    watched: Watched, crowd: Sequence[EditRequest], on_one: list[npt.NDArray[Any]]
) -> None:
    watched.failing = dict.fromkeys(range(2), always(RuntimeError("broken")))
    with pytest.raises(Failed, match="the model failed on this edit"):
        watched.engine.submit(crowd[0]).wait()
    watched.failing.clear()
    assert difference(watched.engine.latents(crowd[0]), on_one[0]) <= BOUND


def test_a_failed_forward_keeps_nothing_while_its_rows_are_made_again(
    watched: Watched, crowd: Sequence[EditRequest]
) -> None:
    kept: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def fail() -> None:
        if kept:
            return
        activations = torch.zeros(8)
        kept.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("full")

    watched.failing = {1: fail, 0: lambda: alive.append(bool(kept) and kept[0]() is not None)}
    watched.engine.latents(crowd[0])
    assert alive[1:] == [False] * 4, "the second is the retry"


def test_a_devices_error_ends_the_process_and_is_not_tried_again(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    parts = DiffusionPipeline.from_pretrained(str(sensitive("plus-2511")), local_files_only=True)
    pipelines: list[Pipeline] = [pipeline for pipeline, _ in replicas_of(parts, Loading(), [CPU, CPU])]
    tried: list[int] = []

    def fail(module: Any, given: Any) -> None:
        tried.append(1)
        raise torch.AcceleratorError(ILLEGAL)

    pipelines[1].parts.transformer.register_forward_pre_hook(fail)
    with contextlib.suppress(Exception), engine_on(parts, replicas=Replicas(pipelines)) as engine:
        engine.submit(edit(photo("cat"), true_cfg_scale=4.0))
        assert engine.process_ended.wait(30)
    assert tried == [1]
