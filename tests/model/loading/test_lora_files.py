"""The folder of adapters: what a request may name, and what is read of it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from qwen_edit.errors import BadRequest
from qwen_edit.loading.assembly import pipeline_of
from qwen_edit.loading.lora_files import MAX_RANK, LoraFiles
from qwen_edit.loading.loras import Loras

from tests.kit import loras
from tests.kit.engines import load_pipeline

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def pipeline(sensitive: Callable[[str], Path]) -> Any:
    return pipeline_of(load_pipeline(sensitive("plus-2511")))


@pytest.fixture
def pairs(pipeline: Any) -> loras.Pairs:
    return loras.pairs(pipeline.parts.transformer, ["0.attn.to_q"], seed=0)


@pytest.fixture
def folder(tmp_path: Path, pairs: loras.Pairs) -> Path:
    """A folder with one adapter, and one beside the folder."""
    inside = tmp_path / "inside"
    inside.mkdir()
    loras.write(inside, "good", loras.diffusers_keys(pairs))
    loras.write(tmp_path, "outside", loras.diffusers_keys(pairs))
    return inside


def read(pipeline: Any, folder: Path, name: str) -> str:
    """The refusal."""
    with pytest.raises(BadRequest) as refused:
        Loras(LoraFiles(str(folder)), pipeline, MEGABYTE).read(name)
    assert str(folder.parent) not in str(refused.value)
    return str(refused.value)


def test_only_regular_files_of_the_folder_are_adapters(pipeline: Any, folder: Path) -> None:
    (folder / "link.safetensors").symlink_to(folder / "good.safetensors")
    (folder / "out.safetensors").symlink_to(folder.parent / "outside.safetensors")
    (folder / "device.safetensors").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.safetensors").mkdir()
    torch.save({"x": torch.zeros(1)}, folder / "pickle.bin")
    (folder / ".hidden.safetensors").write_bytes((folder / "good.safetensors").read_bytes())
    (folder / "a,b.safetensors").write_bytes((folder / "good.safetensors").read_bytes())
    assert LoraFiles(str(folder)).names() == ["good"]
    for name in ("link", "out", "device", "pipe", "folder", "pickle", "missing"):
        assert read(pipeline, folder, name) == f"lora: {name!r}: no adapter of this server: good"
    assert Loras(LoraFiles(str(folder)), pipeline, MEGABYTE).read("good").bytes > 0


def test_a_folder_that_is_not_there_has_no_adapters(pipeline: Any, tmp_path: Path) -> None:
    assert LoraFiles(str(tmp_path / "none")).names() == []
    assert read(pipeline, tmp_path / "none", "any") == "lora: 'any': no adapter of this server: there are none"


def _pickled(path: Path, good: bytes) -> None:
    torch.save({"transformer.x.lora_A.weight": torch.zeros(1)}, path)


def _cut(path: Path, good: bytes) -> None:
    path.write_bytes(good[:-1])


def _empty(path: Path, good: bytes) -> None:
    path.touch()


def _endless_header(path: Path, good: bytes) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + good)


def _nested_metadata(path: Path, good: bytes) -> None:
    header = json.dumps({"__metadata__": {"lora_adapter_metadata": "[" * 100_000}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("damage", [_pickled, _cut, _empty, _endless_header, _nested_metadata])
def test_a_file_that_is_damaged_is_refused(pipeline: Any, folder: Path, damage: Callable[[Path, bytes], None]) -> None:
    damage(folder / "bad.safetensors", (folder / "good.safetensors").read_bytes())
    assert read(pipeline, folder, "bad") == "lora: 'bad': its file is no safetensors file, or damaged"


def _nan(tensors: loras.Tensors) -> None:
    next(iter(tensors.values()))[0, 0] = torch.nan


def _infinite(tensors: loras.Tensors) -> None:
    next(iter(tensors.values()))[0, 0] = torch.inf


def _another_shape(tensors: loras.Tensors) -> None:
    key = next(iter(tensors))
    tensors[key] = torch.zeros(2, 3)


def _vectors(tensors: loras.Tensors) -> None:
    for key in tensors:
        tensors[key] = torch.zeros(2)


def _one_alone(tensors: loras.Tensors) -> None:
    del tensors[next(iter(tensors))]


def _another_layer(tensors: loras.Tensors) -> None:
    tensors["transformer.nowhere.lora_A.weight"] = torch.zeros(2, 64)
    tensors["text_encoder.model.q.lora_A.weight"] = torch.zeros(2, 64)


def _dora(tensors: loras.Tensors) -> None:
    tensors["transformer.transformer_blocks.0.attn.to_q.dora_scale"] = torch.zeros(64)


def _nothing(tensors: loras.Tensors) -> None:
    tensors.clear()


def _huge_rank(tensors: loras.Tensors) -> None:
    tensors["transformer.x.lora_A.weight"] = torch.zeros(MAX_RANK + 1, MAX_RANK + 2, dtype=torch.bfloat16)


def _too_large(tensors: loras.Tensors) -> None:
    tensors["transformer.x.lora_A.weight"] = torch.zeros(2, MEGABYTE // 8)


def _whole_numbers(tensors: loras.Tensors) -> None:
    tensors["transformer.x.lora_A.weight"] = torch.zeros(2, 64, dtype=torch.int8)


def _negative_alpha(tensors: loras.Tensors) -> None:
    tensors["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(-1.0)


def _endless_alpha(tensors: loras.Tensors) -> None:
    tensors["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(torch.inf)


def _twice(tensors: loras.Tensors) -> None:
    tensors |= {key.removeprefix("transformer."): value * 2 for key, value in tensors.items()}


LAYER = "transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_nan, f"NaN or infinite weights of {LAYER}"),
        (_infinite, f"NaN or infinite weights of {LAYER}"),
        (_another_shape, f"{LAYER}: [2, 3] and [64, 2]: [rank, 64] and [64, rank] are needed"),
        (_vectors, f"{LAYER}: [2] and [2]: [rank, 64] and [64, rank] are needed"),
        (_one_alone, f"not for this transformer: '{LAYER}.lora_B.weight'"),
        (_another_layer, "not for this transformer: 'nowhere.lora_A.weight', 'text_encoder.model.q.lora_A.weight'"),
        (_dora, f"not for this transformer: 'transformer.{LAYER}.dora_scale'"),
        (_nothing, "not for this transformer: no weights"),
        (_huge_rank, f"has rank {MAX_RANK + 1}: at most {MAX_RANK} is allowed"),
        (_too_large, "MB: at most 1 are allowed (LORA_CACHE_MB)"),
        (_twice, ".weight' twice, by other prefixes"),
        (_whole_numbers, "is I8: F64, F32, F16, BF16 are allowed"),
        (_negative_alpha, f"transformer.{LAYER}.alpha: a positive number is needed"),
        (_endless_alpha, f"transformer.{LAYER}.alpha: a positive number is needed"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_what_is_wrong(
    pipeline: Any, folder: Path, pairs: loras.Pairs, change: Callable[[loras.Tensors], None], says: str
) -> None:
    tensors = loras.diffusers_keys(pairs)
    change(tensors)
    loras.write(folder, "bad", tensors)
    assert says in read(pipeline, folder, "bad")


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": "much"},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"(": 1}},
        {"alpha_pattern": {"(" * 10_000: 1}},
        {"alpha_pattern": 3},
    ],
    ids=lambda config: str(config)[:40],
)
def test_a_configuration_that_is_none_is_refused(
    pipeline: Any, folder: Path, pairs: loras.Pairs, config: dict[str, Any]
) -> None:
    loras.write(folder, "bad", loras.diffusers_keys(pairs), config=config)
    assert "its metadata is no configuration of peft's" in read(pipeline, folder, "bad")


def test_a_rank_of_nothing_with_an_alpha_is_refused(pipeline: Any, folder: Path, pairs: loras.Pairs) -> None:
    empty = {layer: (down[:0], up[:, :0]) for layer, (down, up) in pairs.items()}
    loras.write(folder, "bad", loras.diffusers_keys(empty), config={"lora_alpha": 1})
    assert "its metadata is no configuration of peft's" in read(pipeline, folder, "bad")


def test_an_expression_that_could_be_matched_for_ever_is_refused(
    pipeline: Any, folder: Path, pairs: loras.Pairs
) -> None:
    """Python's `re` lets no other thread of the server run meanwhile."""
    loras.write(folder, "bad", loras.diffusers_keys(pairs), config={"alpha_pattern": {"(([a-z_]+)+)+!": 1}})
    assert "its alpha_pattern repeats something" in read(pipeline, folder, "bad")


def test_a_file_that_is_cut_short_while_it_is_looked_into_is_refused(
    pipeline: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp` over it does: mapped, it would end the process."""
    look = safetensors.safe_open

    def cut(path: str, framework: str) -> Any:
        opened = look(path, framework)
        os.truncate(folder / "good.safetensors", 0)
        return opened

    monkeypatch.setattr("safetensors.safe_open", cut)
    assert "'good': its file is being written" in read(pipeline, folder, "good")


def test_the_header_is_read_before_the_weights(
    pipeline: Any, folder: Path, pairs: loras.Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is too large, or whose ranks are, nothing else is brought into memory."""
    tensors = loras.diffusers_keys(pairs)
    _too_large(tensors)
    loras.write(folder, "bad", tensors)
    monkeypatch.setattr("safetensors.torch.load", lambda data: pytest.fail("it was read"))
    assert "LORA_CACHE_MB" in read(pipeline, folder, "bad")


def test_a_file_is_read_once_for_all_who_use_it_and_again_when_it_was_replaced(
    pipeline: Any, folder: Path, pairs: loras.Pairs
) -> None:
    found = Loras(LoraFiles(str(folder)), pipeline, MEGABYTE)
    assert found.known("good") is None
    first = found.read("good")
    assert found.known("good") is first
    assert found.read("good") is first
    loras.write(folder, "same", loras.diffusers_keys(pairs))
    assert found.read("same") is first, "by its content"
    loras.write(folder, "good", loras.diffusers_keys({layer: (down * 2, up) for layer, (down, up) in pairs.items()}))
    assert found.known("good") is None
    assert found.read("good").digest != first.digest
