"""Rows in forwards of their own, or in one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.forward import denoise
from qwen_edit.forward.denoise import Denoiser, Denoising, Inpainting
from qwen_edit.forward.lora_store import LoraStore
from qwen_edit.forward.prefix_store import PrefixStore
from qwen_edit.pipeline import Row

from tests.kit.engines import TestEngine, difference, edit, engine_on, load_pipeline


@pytest.mark.parametrize(("limit", "forwards"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (None, [4])])
@torch.inference_mode()
def test_rows_share_a_forward_as_far_as_they_may_and_move_the_same(
    sensitive: Callable[[str], Path],
    photo: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    forwards: list[int],
) -> None:
    with engine_on(load_pipeline(sensitive("plus-2511"))) as engine:
        states = _states(engine, photo)
    reference = [copy(state) for state in states]
    Denoiser(engine.pipeline, PrefixStore(0), LoraStore(engine.pipeline, 0)).step(reference)
    right = engine.pipeline.velocities
    seen: list[int] = []

    def watched(rows: Sequence[Row]) -> list[torch.Tensor]:
        seen.append(len(rows))
        return right(rows)

    monkeypatch.setattr(engine.pipeline, "velocities", watched)
    Denoiser(engine.pipeline, PrefixStore(0), LoraStore(engine.pipeline, 0)).step(states, rows_per_forward=limit)
    assert seen == forwards
    for state, expected in zip(states, reference, strict=True):
        assert difference(state.latents, expected.latents) <= 1e-5


@pytest.mark.parametrize("good", [0, 1, 2])  # of the second job's step, the one it spares, and the third's step
@torch.inference_mode()
def test_a_step_that_runs_out_of_memory_while_jobs_are_moved_on_changes_none_of_them(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    with engine_on(load_pipeline(sensitive("plus-2511"))) as engine:
        states = _states(engine, photo)
    for state in states[1:]:
        state.inpainting = Inpainting(*(torch.ones_like(state.latents) for _ in range(3)))
        state.keep_clean_at = 1
    states[1].skipped = frozenset({1})
    before = [copy(state) for state in states]
    reference = [copy(state) for state in states]
    denoiser = Denoiser(engine.pipeline, PrefixStore(0), LoraStore(engine.pipeline, 0))
    denoiser.step(reference)
    blended, calls = denoise.blended, itertools.count()

    def short(*inputs: Any) -> torch.Tensor:
        if next(calls) == good:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return blended(*inputs)

    monkeypatch.setattr(denoise, "blended", short)
    with pytest.raises(torch.OutOfMemoryError):
        denoiser.step(states)
    for state, was in zip(states, before, strict=True):
        assert all(vars(state)[name] is value for name, value in vars(was).items())
    denoiser.step(states)
    assert [state.step for state in states] == [1, 2, 1]
    for state, expected in zip(states, reference, strict=True):
        assert torch.equal(state.latents, expected.latents)


def _states(engine: TestEngine, photo: Callable[[str], bytes]) -> list[Denoising]:
    """Of a guided edit and two without guidance, each of another size, before their first step."""
    requests = [
        edit(photo("cat"), true_cfg_scale=4.0, negative_prompt="a " * 9),
        edit(photo("coffee"), size=(96, 64)),
        edit(photo("rocket"), photo("cat"), size=(64, 128)),
    ]
    states: list[Denoising] = []
    for request in requests:
        engine.worker.encoded[request.id] = lambda state: states.append(copy(state))
        engine.submit(request).wait()
    return states
