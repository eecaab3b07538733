"""Which rows share a forward, and what is kept between steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.forward.denoise import TextBatches, grouped

from tests.kit.engines import difference, edit, engine_on, load_pipeline


@pytest.mark.parametrize(
    ("lengths", "limit", "together", "groups"),
    [
        ([5, 9, 5], None, True, [[0, 1, 2]]),
        ([5, 9, 5], None, False, [[0, 2], [1]]),
        ([5, 9, 5], 1, True, [[0], [1], [2]]),
        ([5, 5, 5], 2, False, [[0, 1], [2]]),
        ([5], None, False, [[0]]),
    ],
)
def test_rows_are_grouped(lengths: list[int], limit: int | None, together: bool, groups: list[list[int]]) -> None:
    assert grouped(lengths, limit, together=together) == groups


@pytest.mark.parametrize("guided", [2, 3], ids=["equal", "unequal"])
def test_without_padding_the_latents_are_the_same(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, guided: int
) -> None:
    pipeline = load_pipeline(sensitive("plus-2511"))
    request = edit(photo("cat"), prompt="a hat", negative_prompt="a " * guided, true_cfg_scale=4.0)
    with engine_on(pipeline) as engine:
        reference = engine.latents(request)
    masks: list[Any] = []
    forward = pipeline.transformer.forward

    def watched(**inputs: Any) -> Any:
        masks.append(inputs["encoder_hidden_states_mask"])
        return forward(**inputs)

    monkeypatch.setattr(pipeline.transformer, "forward", watched)
    with engine_on(pipeline, unpadded_row_tokens=0) as engine:
        assert difference(engine.latents(request), reference) <= 1e-4
    assert set(masks) == {None}


def test_a_companys_texts_are_padded_once_and_few_companies_are_kept() -> None:
    batches = TextBatches(kept=2)
    texts = [torch.ones(2, 3), torch.ones(4, 3), torch.ones(4, 3)]
    first = batches.padded(texts[:2], torch.float32)
    assert batches.padded(texts[:2], torch.float32) is first
    assert batches.padded(texts[1:], torch.float32)[1] is None
    assert batches.padded(texts[:2], torch.float32) is first
    batches.padded(texts, torch.float32)
    batches.padded(texts[:1], torch.float32)
    assert batches.padded(texts[:2], torch.float32) is not first
