"""Where weights go: maps of the real architecture, without its weights and without GPUs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qwen_edit.pipeline
import torch
from accelerate import dispatch_model
from PIL import Image
from qwen_edit.loading import placement
from qwen_edit.loading.assembly import pipeline_of
from qwen_edit.loading.checkpoint import LoadError
from qwen_edit.pipeline import Devices, LayeredPipeline

from checkpoints.random_weights import build_pipeline
from tests.kit.engines import difference, edit, engine_on, load_pipeline
from tests.kit.rows import four_rows, largest_difference

GIGABYTE = placement.GIGABYTE


@pytest.fixture(scope="module")
def parts() -> dict[str, torch.nn.Module]:
    return placement.parts_of(build_pipeline("plus-2511", "full", device="meta"))


def cards(*gigabytes: float) -> dict[int, int]:
    return {number: int(size * GIGABYTE) for number, size in enumerate(gigabytes)}


def bytes_on(parts: dict[str, torch.nn.Module], maps: dict[str, Any], device: int | str) -> float:
    return sum(placement.bytes_by_device(module, maps[name]).get(device, 0) for name, module in parts.items())


def test_the_weights_take_what_the_readme_counts_with(parts: dict[str, torch.nn.Module]) -> None:
    sizes = {name: round(placement.bytes_of(module) / GIGABYTE, 1) for name, module in parts.items()}
    assert sizes == {"transformer": 40.9, "text_encoder": 15.5, "vae": 0.3}


@pytest.mark.parametrize(
    "memory",
    [cards(76), cards(44, 44), cards(20, 20, 20, 20), cards(12, 12, 12, 12, 12, 12), cards(36, 20, 10)],
    ids=["1×80", "2×48", "4×24", "6×16", "unequal"],
)
def test_a_map_covers_every_module_in_whole_blocks_within_the_memory(
    parts: dict[str, torch.nn.Module], memory: dict[int, int]
) -> None:
    maps = placement.plan(parts, memory)
    placement.check_fits(parts, maps, memory, "none")
    for name, module in parts.items():
        for tensor, _ in module.named_parameters():
            owners = [where for where in maps[name] if not where or tensor == where or tensor.startswith(f"{where}.")]
            assert len(owners) == 1, tensor
    assert len(maps["vae"]) == 1
    inside = [
        where for where in maps["transformer"] if where.startswith("transformer_blocks.") and where.count(".") > 1
    ]
    assert not inside, "a block is divided"
    for number, room in memory.items():
        assert bytes_on(parts, maps, number) <= room


def test_a_part_that_fits_a_card_stays_whole(parts: dict[str, torch.nn.Module]) -> None:
    maps = placement.plan(parts, cards(44, 44))
    assert (maps["transformer"], maps["text_encoder"]) == ({"": 0}, {"": 1})


def test_a_map_that_leaves_a_block_out_fails_with_what_is_missing(parts: dict[str, torch.nn.Module]) -> None:
    memory = cards(20, 20)
    maps = placement.plan(parts, memory)
    with pytest.raises(LoadError, match=r"DEVICE_MAP=balanced: (\d+\.\d) GB more GPU memory is needed.* 56\.6 GB"):
        placement.check_fits(parts, maps, memory, "none")
    placement.check_fits(parts, maps, memory, "group")
    assert bytes_on(parts, maps, "cpu") >= 16 * GIGABYTE


def test_a_transformer_with_prefixes_is_not_divided() -> None:
    from diffusers import QwenImage21Transformer2DModel

    from checkpoints.qwen_image_21 import ARCHITECTURES_21

    with torch.device("meta"):
        transformer = QwenImage21Transformer2DModel(**ARCHITECTURES_21["tiny"].transformer)
    parts: dict[str, torch.nn.Module] = {"transformer": transformer}
    size = placement.bytes_of(transformer)
    placement.check_fits(parts, placement.plan(parts, {0: size}), {0: size}, "none")
    memory = {0: size * 3 // 5, 1: size * 3 // 5}
    with pytest.raises(
        LoadError, match=r"DEVICE_MAP=balanced: the transformer of Qwen-Image-2.1 has to fit on one GPU"
    ):
        placement.check_fits(parts, placement.plan(parts, memory), memory, "group")


@pytest.mark.parametrize(("given", "device"), [("cuda", "cuda:0"), ("cuda:3", "cuda:3"), ("cpu", "cpu")])
def test_the_device_of_all_parts_has_a_number(given: str, device: str) -> None:
    assert {str(each) for each in vars(Devices.all(torch.device(given))).values()} == {device}


def test_the_one_that_ran_last_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[str, str]] = []

    class Part(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def to(self, *where: Any, **options: Any) -> Any:
            (device,) = where
            moves.append((self.name, str(device)))
            return self

        def forward(self) -> None:
            pass

    text, transformer = Part("text"), Part("transformer")
    placement.Exchange([text, transformer], torch.device("cuda", 1))
    for part in (text, transformer, transformer, text):
        part()
    assert moves == [
        ("text", "cuda:1"), ("text", "cpu"), ("transformer", "cuda:1"), ("transformer", "cpu"), ("text", "cuda:1"),
    ]  # fmt: skip


def test_the_vocabulary_head_which_nothing_reads_stays_where_it_is() -> None:
    pipeline = build_pipeline("plus", "tiny")
    placement.place(pipeline, torch.device("meta"), "none")
    left = {
        f"{name}.{tensor}"
        for name in ("transformer", "text_encoder", "vae")
        for tensor, value in getattr(pipeline, name).named_parameters()
        if value.device.type != "meta"
    }
    assert left == {"text_encoder.lm_head.weight"}


@pytest.mark.parametrize("offload", ["model", "group"])
def test_an_offloaded_pipeline_edits_the_same(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], offload: str
) -> None:
    """With the CPU as the device that weights come to."""
    request = edit(photo("cat"), true_cfg_scale=3.0, num_inference_steps=3)
    pipeline = load_pipeline(sensitive("plus"))
    with engine_on(pipeline) as engine:
        reference = engine.latents(request)
    devices = placement.place(pipeline, torch.device("cpu"), offload)
    with engine_on(pipeline, devices=devices) as engine:
        assert difference(engine.latents(request), reference) == 0


@pytest.mark.parametrize("offload", ["model", "group"])
def test_rows_of_any_shape_get_what_diffusers_gives_each_from_offloaded_weights(
    sensitive: Callable[[str], Path], offload: str
) -> None:
    pipeline = load_pipeline(sensitive("plus-2511"))
    placement.place(pipeline, torch.device("cpu"), offload)
    assert largest_difference(pipeline.transformer, four_rows(pipeline.transformer)) <= 1e-4


def test_rows_of_any_shape_get_what_diffusers_gives_each_from_spread_weights(sensitive: Callable[[str], Path]) -> None:
    """With the hooks that carry tensors from card to card, all cards being the CPU."""
    transformer = load_pipeline(sensitive("plus-2511")).transformer
    devices = dict.fromkeys((name for name, _ in transformer.named_children() if name != "transformer_blocks"), "cpu")
    blocks = {f"transformer_blocks.{number}": "cpu" for number in range(len(transformer.transformer_blocks))}
    dispatch_model(transformer, devices | blocks, main_device="cpu", force_hooks=True)
    assert all(hasattr(block, "_hf_hook") for block in transformer.transformer_blocks)
    assert largest_difference(transformer, four_rows(transformer)) <= 1e-4


def test_a_spread_text_encoder_writes_the_same_caption(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divided as over two cards, with the hooks that carry tensors from one to the other, both cards being the CPU."""
    monkeypatch.setattr(qwen_edit.pipeline, "MAX_CAPTION_TOKENS", 24)
    pipeline = pipeline_of(load_pipeline(sensitive("layered")))
    assert isinstance(pipeline, LayeredPipeline)
    with Image.open(io.BytesIO(photo("coffee"))) as opened:
        picture = opened.convert("RGB").resize((128, 128))
    whole = pipeline.caption(picture, lambda: False)
    encoder = placement.parts_of(pipeline.parts)["text_encoder"]
    most = placement.bytes_of(encoder) * 4 // 5
    (devices,) = placement.plan({"text_encoder": encoder}, {0: most, 1: most}).values()
    assert set(devices.values()) == {0, 1}
    assert "lm_head" in devices
    dispatch_model(encoder, dict.fromkeys(devices, "cpu"), main_device="cpu", force_hooks=True)
    assert pipeline.caption(picture, lambda: False) == whole
