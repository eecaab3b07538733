"""At load, what our forward makes is held against diffusers' own: what is wrong is said, and not served."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from qwen_edit.forward import places, prefixes, ragged
from qwen_edit.forward.block import Halves, Paths, after_attention, before_attention
from qwen_edit.loading import attention, compiling, fast_ways, placement
from qwen_edit.loading.checkpoint import find
from qwen_edit.loading.fast_ways import compiles
from qwen_edit.loading.load import Loaded, load
from qwen_edit.loading.self_check import Fast, SelfCheck
from qwen_edit.pipeline import Pipeline
from qwen_edit.settings import Loading, Settings
from torch._dynamo.utils import counters

from tests.kit.engines import difference, edit, engine_on, load_pipeline
from tests.kit.rows import four_rows, largest_difference

CPU = torch.device("cpu")
EXACT = 1e-4


def loaded(folder: Path, **environ: str) -> Loaded:
    settings = Settings.from_environment({"QWEN_MODEL_DIR": str(folder), "REFERENCE_AREA": "4096", **environ})
    return load(find(str(folder)), settings, CPU)


@pytest.fixture
def folder(sensitive: Callable[[str], Path]) -> Path:
    return sensitive("plus-2511")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def latents(parts: Any, cat: bytes) -> npt.NDArray[np.float32]:
    with engine_on(parts) as engine:
        return engine.latents(edit(cat, true_cfg_scale=3.0, num_inference_steps=3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fault_in_the_fast_path_is_caught_and_edits_come_out_right(
    folder: Path, photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    dtype: str,
) -> None:  # fmt: skip
    reference = latents(loaded(folder, TORCH_DTYPE=dtype).pipeline.parts, photo("cat"))
    assert not warnings(caplog)
    right = places.in_real_numbers
    monkeypatch.setattr(places, "in_real_numbers", lambda angles: right([each.roll(1, 0) for each in angles]))
    model = loaded(folder, TORCH_DTYPE=dtype)
    (warning,) = warnings(caplog)
    assert re.fullmatch(
        r"rows of any shape in one forward: off by \S+ from diffusers' own forward, where rounding makes \S+; "
        "served without", warning,
    )  # fmt: skip
    assert difference(latents(model.pipeline.parts, photo("cat")), reference) <= (EXACT if dtype == "float32" else 0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fault_in_the_forward_with_prefixes_is_caught_and_edits_come_out_right(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, dtype: str,
) -> None:  # fmt: skip
    folder = sensitive("2.1")
    reference = latents(loaded(folder, TORCH_DTYPE=dtype).pipeline.parts, photo("cat"))
    assert not warnings(caplog)
    right = places.in_real_numbers
    monkeypatch.setattr(prefixes, "in_real_numbers", lambda angles: right([each.roll(1, 0) for each in angles]))
    model = loaded(folder, TORCH_DTYPE=dtype)
    (warning,) = warnings(caplog)
    assert re.fullmatch(
        r"prefixes made once and rows of any shape in one forward: off by \S+ from diffusers' own forward, where "
        r"rounding makes \S+; served without", warning,
    )  # fmt: skip
    assert difference(latents(model.pipeline.parts, photo("cat")), reference) <= (EXACT if dtype == "float32" else 0.1)


def test_the_log_has_the_figures_of_each_way(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "image_edit_server"):
        loaded(folder)
    (line,) = [message for message in caplog.messages if message.startswith("Self-check")]
    found = re.fullmatch(
        r"Self-check: off by (\S+) with rows of any shape in one forward, (\S+) with queries, keys and values in one "
        r"product; diffusers' own rounding makes (\S+), (\S+) is allowed \((\d+\.\d) s\)", line,
    )  # fmt: skip
    assert found
    together, joint, noise, bound = map(float, found.groups()[:4])
    assert 0 < max(together, joint) <= 4 * noise <= bound


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The compiler traces and guards, and torch itself runs the graphs."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def wrong_halves() -> Halves:
    """Forgets the gate of the feed-forward, as a miscompiled graph could."""

    def after(stream: Any, tokens: Any, heads: Any, modulations: Any, times: Any) -> torch.Tensor:
        return after_attention(stream, tokens, heads, modulations.roll(1, 0), times)

    return Halves(before_attention, after)


def test_compiled_code_that_is_wrong_is_not_served_and_what_was_right_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "compiled_halves", wrong_halves)
    transformer = loaded(folder, COMPILE="true").pipeline.parts.transformer
    (warning,) = warnings(caplog)
    assert warning.startswith("COMPILE=true: off by ")
    assert largest_difference(transformer, four_rows(transformer)) <= EXACT


def failing(*_: Any, **__: Any) -> None:
    raise RuntimeError("no compiler\nand more")


def test_where_compiling_fails_that_was_not_asked_for_by_name_the_model_serves_uncompiled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fast_ways, "compiles", lambda *_: True)  # as on a GPU
    monkeypatch.setattr(compiling, "forward", failing)
    transformer = loaded(folder, COMPILE="auto").pipeline.parts.transformer
    assert warnings(caplog) == ["COMPILE=auto: no compiler; served without"]
    assert largest_difference(transformer, four_rows(transformer)) <= EXACT


@pytest.mark.parametrize(
    ("value", "device", "offload", "does"),
    [
        ("auto", "cuda", "none", True), ("auto", "cpu", "none", False), ("auto", "cuda", "group", False),
        ("true", "cpu", "none", True), ("false", "cuda", "none", False), ("", "cuda", "none", True),
    ],
)  # fmt: skip
def test_blocks_are_compiled_on_a_gpu_unless_it_is_said(value: str, device: str, offload: str, does: bool) -> None:
    loading: Loading = Settings.from_environment({"COMPILE": value, "OFFLOAD": offload}).loading
    assert compiles(loading, torch.device(device)) is does


def test_a_kernel_that_fails_here_is_not_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention, "varlen", lambda *_: failing)
    transformer = loaded(folder).pipeline.parts.transformer
    assert warnings(caplog) == ["attention of short rows in one call: no compiler; served without"]
    assert largest_difference(transformer, four_rows(transformer)) <= EXACT


@pytest.mark.usefixtures("traced")
def test_blocks_that_cards_share_are_compiled(folder: Path) -> None:
    """With the hooks that carry tensors from card to card, all cards being the CPU."""
    parts, paths = load_pipeline(folder), Paths()
    ragged.bind(parts.transformer, paths)
    names = [name for name, _ in parts.transformer.named_children() if name != "transformer_blocks"]
    names += [f"transformer_blocks.{number}" for number in range(len(parts.transformer.transformer_blocks))]
    attach_align_device_hook_on_blocks(
        parts.transformer, execution_device=dict.fromkeys(["", *names], CPU), offload=dict.fromkeys(["", *names], False)
    )
    placement.bare_within_blocks(parts.transformer, dict.fromkeys(names, 0))
    assert all(hasattr(block, "_hf_hook") for block in parts.transformer.transformer_blocks)
    pipeline = Pipeline(parts)

    def compile_them() -> None:
        paths.halves = compiling.compiled_halves()

    SelfCheck(pipeline, paths).run([Fast("compiled", compile_them, failing, wanted=True)])
    assert counters["stats"]["unique_graphs"] == 2
    assert largest_difference(parts.transformer, four_rows(parts.transformer)) <= EXACT
