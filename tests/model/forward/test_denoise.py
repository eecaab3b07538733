"""Rows in forwards of their own, or in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import pytest
import torch
from qwen_edit.forward.denoise import Denoiser, Denoising
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
