"""A transformer on each of several devices: where everything lies, that all are the same, what does not go with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from qwen_edit.families.family import Family
from qwen_edit.families.known import FAMILIES
from qwen_edit.loading import placement
from qwen_edit.loading.assembly import accelerate, replicas_of, replicate
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.load import load
from qwen_edit.pipeline import Devices
from qwen_edit.settings import Loading, Settings

from tests.kit.engines import difference, edit, engine_on
from tests.kit.rows import four_rows

CPU, META, GPU = torch.device("cpu"), torch.device("meta"), torch.device("cuda")
BOUND = 1e-4
PLUS = FAMILIES["QwenImageEditPlusPipeline"]
WITH_PREFIX = FAMILIES["QwenImage21Pipeline"]


@pytest.fixture(scope="module")
def parts_of(sensitive: Callable[[str], Path]) -> Callable[[], Any]:
    folder = str(sensitive("plus-2511"))
    return lambda: DiffusionPipeline.from_pretrained(folder, local_files_only=True)


def devices_of(module: torch.nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in (*module.parameters(), *module.buffers())}


@pytest.mark.parametrize("cards", [(META, CPU), (CPU, META, CPU), (META, META)], ids=str)
def test_every_card_has_a_transformer_and_the_second_has_the_rest(
    parts_of: Callable[[], Any], cards: tuple[torch.device, ...]
) -> None:
    parts = parts_of()
    pipelines = [pipeline for pipeline, _ in replicas_of(parts, Loading(), cards)]
    assert pipelines[0].parts is parts
    assert [pipeline.devices for pipeline in pipelines] == [Devices(card, cards[1], cards[1]) for card in cards]
    assert [devices_of(pipeline.parts.transformer) for pipeline in pipelines] == [{card} for card in cards]
    assert {id(pipeline.parts.vae) for pipeline in pipelines} == {id(parts.vae)}
    assert devices_of(parts.vae) == devices_of(parts.text_encoder.model) == {cards[1]}


@pytest.mark.parametrize("options", [{}, {"quantization": "int8", "text_encoder_quantization": "int8"}], ids=str)
def test_each_is_made_fast_by_itself_and_they_are_the_same(
    parts_of: Callable[[], Any], options: dict[str, Any]
) -> None:
    loading = Loading(**options)
    one, checked = accelerate(parts_of(), loading, 4096, CPU)
    several, checked_of_all = replicate(parts_of(), loading, 4096, [CPU, CPU])
    assert [each.name for each in checked_of_all] == 2 * [each.name for each in checked]
    assert all(each.on for each in checked_of_all)
    rows = four_rows(one.parts.transformer)
    with torch.inference_mode():
        expected = one.velocities(rows)
        for pipeline in several:
            for ours, theirs in zip(pipeline.velocities(rows), expected, strict=True):
                assert difference(ours, theirs) <= BOUND
    queries = [pipeline.parts.transformer.transformer_blocks[0].attn.to_q.weight for pipeline in (one, *several)]
    assert len({type(weight) for weight in queries}) == 1
    if not options:
        assert len({weight.data_ptr() for weight in queries}) == 3


def test_a_loaded_checkpoint_edits_on_all_of_them(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "replica_cards", lambda settings, device, family: [CPU, CPU])
    folder = sensitive("plus-2511")
    environ = {"QWEN_MODEL_DIR": str(folder), "REFERENCE_AREA": "4096"}
    two, one = (
        load(find(str(folder)), Settings.from_environment(environ | {"GPUS_PER_INSTANCE": count}), CPU)
        for count in ("2", "1")
    )
    assert one.replicas is None
    assert two.replicas is not None
    request = edit(photo("cat"), true_cfg_scale=4.0)
    with engine_on(two.pipeline.parts, replicas=two.replicas) as engine, engine_on(one.pipeline.parts) as alone:
        assert difference(engine.latents(request), alone.latents(request)) <= BOUND


@pytest.mark.parametrize(
    ("environ", "device", "family", "line"),
    [
        ({"OFFLOAD": "model"}, GPU, PLUS, "OFFLOAD=model: not together with GPUS_PER_INSTANCE=2"),
        ({"OFFLOAD": "group"}, GPU, PLUS, "OFFLOAD=group: not together with GPUS_PER_INSTANCE=2"),
        ({"DEVICE_MAP": "balanced"}, GPU, PLUS, "DEVICE_MAP=balanced: not together with GPUS_PER_INSTANCE=2"),
        ({}, CPU, PLUS, "GPUS_PER_INSTANCE=2: CUDA GPUs are needed, this instance runs on the CPU"),
        (
            {},
            torch.device("cuda", 0),
            PLUS,
            "GPUS_PER_INSTANCE=2: this instance has one GPU; start Triton with --model",
        ),
        ({}, GPU, WITH_PREFIX, "GPUS_PER_INSTANCE=2: not for a QwenImage21Pipeline checkpoint"),
        ({}, GPU, PLUS, "GPUS_PER_INSTANCE=2: this server sees 3 GPUs"),
    ],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], device: torch.device, family: Family, line: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    settings = Settings.from_environment({"GPUS_PER_INSTANCE": "2", **environ})
    with pytest.raises(LoadError) as refused:
        placement.replica_cards(settings, device, family)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_the_cards_are_all_that_the_server_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cards = placement.replica_cards(Settings.from_environment({"GPUS_PER_INSTANCE": "2"}), GPU, PLUS)
    assert cards == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_on_the_cpu_it_is_refused_before_anything_is_loaded(sensitive: Callable[[str], Path]) -> None:
    folder = str(sensitive("plus"))
    settings = Settings.from_environment({"QWEN_MODEL_DIR": folder, "GPUS_PER_INSTANCE": "2"})
    with pytest.raises(LoadError, match="GPUS_PER_INSTANCE=2: CUDA GPUs are needed"):
        load(find(folder), settings, CPU)
