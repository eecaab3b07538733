"""Compiled blocks: the same latents, and nothing compiled again for a user's odd sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.forward import rotary
from qwen_edit.loading import compiling
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.load import load
from qwen_edit.pipeline import Pipeline
from qwen_edit.settings import Settings
from torch._dynamo.utils import counters

from tests.kit.engines import difference, edit, engine_on, load_pipeline


@pytest.fixture
def compiled(sensitive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A model whose graphs are traced and guarded, but run by torch itself: generating code takes a minute."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
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
    assert warmed_up == len(compiling.VARIANTS)
    with engine_on(load_pipeline(sensitive("plus-2511"))) as engine:
        plain = [engine.latents(request) for request in requests]
    with engine_on(compiled.pipeline.parts) as engine:
        for request, reference in zip(requests, plain, strict=True):
            assert difference(engine.latents(request), reference) <= 1e-4
    assert counters["stats"]["unique_graphs"] == warmed_up


def test_what_the_compiler_says_is_one_line_with_the_setting(
    sensitive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(compiling, "compile_blocks", fail)
    folder = sensitive("plus-2511")
    settings = Settings.from_environment({"QWEN_MODEL_DIR": str(folder), "COMPILE": "true"})
    with pytest.raises(LoadError, match=r"^COMPILE=true: no compiler$"):
        load(find(str(folder)), settings, torch.device("cpu"))


def test_the_log_tells_how_far_the_warm_up_is(
    sensitive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "forward", lambda *_: None)
    with caplog.at_level(logging.INFO, "image_edit_server"):
        compiling.warm_up(Pipeline(load_pipeline(sensitive("plus-2511"))), 4096, masks=False)
    assert caplog.messages[0] == "Compiling 1 of 2: one row..."
    assert caplog.messages[2] == "Compiling 2 of 2: several rows..."


def test_rotary_embeddings_in_real_numbers_are_those_of_diffusers() -> None:
    from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 7, 3, 16, generator=generator)
    angles = torch.polar(torch.ones(7, 8), torch.randn(7, 8, generator=generator))
    ours = rotary.rotated(states, torch.view_as_real(angles))
    torch.testing.assert_close(ours, apply_rotary_emb_qwen(states, angles, use_real=False), rtol=0, atol=1e-6)
