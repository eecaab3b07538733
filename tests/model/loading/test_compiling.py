"""Compiled blocks: the same latents, and nothing compiled again for a user's odd sizes."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.forward import rotary
from qwen_edit.forward.lora_store import Lora, LoraStore
from qwen_edit.loading import compiling
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.load import load
from qwen_edit.pipeline import LowRank, Pipeline, Row
from qwen_edit.settings import Settings
from torch._dynamo.utils import counters

from tests.kit import loras
from tests.kit.engines import difference, edit, engine_on, load_pipeline
from tests.kit.rows import four_rows, largest_difference, random_row


@pytest.fixture
def compiled(
    request: pytest.FixtureRequest, sensitive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A model whose graphs are traced and guarded, but run by torch itself: generating code takes a minute."""
    monkeypatch.setattr(compiling, "BACKEND", getattr(request, "param", "eager"))
    # pytest listens to every logger, and this one writes down each step of a trace then.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch.compiler.reset()
    counters.clear()
    folder = sensitive("plus-2511")
    settings = Settings.from_environment({"QWEN_MODEL_DIR": str(folder), "REFERENCE_AREA": "4096", "COMPILE": "true"})
    yield load(find(str(folder)), settings, torch.device("cpu"))
    torch.compiler.reset()


def test_odd_sizes_compile_nothing_and_change_nothing(
    compiled: Any, sensitive: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    requests = [
        edit(photo("cat"), size=size, prompt=prompt, true_cfg_scale=scale, num_inference_steps=2)
        for size, prompt, scale in [((80, 112), "a " * 9, 1.0), ((64, 64), "b", 3.0), ((208, 96), "c " * 40, 3.0)]
    ]
    warmed_up = counters["stats"]["unique_graphs"]
    assert warmed_up == 2, "one half before attention and one after it, for both streams of all blocks"
    with engine_on(load_pipeline(sensitive("plus-2511"))) as engine:
        plain = [engine.latents(request) for request in requests]
    with engine_on(compiled.pipeline.parts) as engine:
        for request, reference in zip(requests, plain, strict=True):
            assert difference(engine.latents(request), reference) <= 1e-4
    assert counters["stats"]["unique_graphs"] == warmed_up


@torch.inference_mode()
def test_rows_of_any_shape_get_what_diffusers_gives_each_uncompiled_also_after_rows_with_adapters(
    compiled: Any,
) -> None:
    pipeline, warmed_up = compiled.pipeline, counters["stats"]["unique_graphs"]
    transformer = pipeline.parts.transformer
    rows = four_rows(transformer)
    assert largest_difference(transformer, rows) <= 1e-4
    before = pipeline.velocities(rows)
    pairs = loras.pairs(transformer, [""], seed=0)
    lora = Lora("digest", {name: LowRank(*both) for name, both in pairs.items()})
    own = LoraStore(pipeline, 2**20).weighed(((lora, 1.0),))
    pipeline.velocities([Row(*rows[0][:4], own), *rows[1:]])
    assert all(map(torch.equal, before, pipeline.velocities(rows)))
    assert counters["stats"]["unique_graphs"] == warmed_up


@pytest.mark.parametrize("compiled", ["aot_eager"], indirect=True)
@torch.inference_mode()
def test_crowds_of_one_to_eight_rows_in_fifty_sizes_compile_nothing(compiled: Any) -> None:
    warmed_up, draw = counters["stats"]["unique_graphs"], random.Random(0)
    transformer = compiled.pipeline.parts.transformer
    for number in range(50):
        rows = [
            random_row(
                transformer, [(draw.randint(1, 20), draw.randint(1, 20)) for _ in range(draw.randint(1, 4))],
                text_tokens=draw.randint(2, 90), time=draw.random(),
            )
            for _ in range(1 + number % 8)
        ]  # fmt: skip
        compiled.pipeline.velocities(rows)
    assert counters["stats"]["unique_graphs"] == warmed_up


def test_what_the_compiler_says_is_one_line_with_the_setting(
    sensitive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(compiling, "forward", fail)
    folder = sensitive("plus-2511")
    settings = Settings.from_environment({"QWEN_MODEL_DIR": str(folder), "COMPILE": "true"})
    with pytest.raises(LoadError, match=r"^COMPILE=true: no compiler$"):
        load(find(str(folder)), settings, torch.device("cpu"))


def test_the_log_tells_that_blocks_are_compiled_and_how_long_it_took(
    sensitive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "forward", lambda *_: None)
    with caplog.at_level(logging.INFO, "image_edit_server"):
        compiling.warm_up(Pipeline(load_pipeline(sensitive("plus-2511"))), 4096)
    assert caplog.messages[0] == "Compiling the transformer's blocks..."
    assert re.fullmatch(r"Compiled in \d+\.\d s", caplog.messages[1])


@pytest.mark.parametrize("turned", [rotary.in_real_numbers, rotary.in_complex_numbers])
def test_rotary_embeddings_are_those_of_diffusers(monkeypatch: pytest.MonkeyPatch, turned: Any) -> None:
    from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

    monkeypatch.setattr(rotary, "in_complex_numbers", turned)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(7, 3, 16, generator=generator)
    angles = torch.polar(torch.ones(7, 8), torch.randn(7, 8, generator=generator))
    ours = rotary.rotated(states, torch.view_as_real(angles))
    theirs = apply_rotary_emb_qwen(states[None], angles, use_real=False)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
