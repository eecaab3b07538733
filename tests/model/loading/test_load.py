"""Where a checkpoint comes from, its defaults, and what is said about one that cannot be served."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.load import Loaded, instance_device
from qwen_edit.loading.load import load as load_checkpoint
from qwen_edit.settings import Settings
from safetensors.torch import load_file

CPU = torch.device("cpu")


def settings(model_dir: Path | str, **environ: str) -> Settings:
    return Settings.from_environment({"QWEN_MODEL_DIR": str(model_dir), **environ})


def load(settings: Settings, device: torch.device) -> Loaded:
    return load_checkpoint(find(settings.model_dir), settings, device)


def copied(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint by links, so that one of its files can be replaced."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize(("family", "steps"), [("edit", 50), ("plus", 40), ("plus-2511", 40)])
def test_without_settings_or_serving_json_the_family_decides(
    checkpoint: Callable[[str], Path], tmp_path: Path, family: str, steps: int
) -> None:
    folder = copied(checkpoint(family), tmp_path / "copy")
    (folder / "serving.json").unlink()
    loaded = load(settings(folder), CPU)
    assert (loaded.defaults.num_inference_steps, loaded.defaults.true_cfg_scale) == (steps, 4.0)
    assert loaded.defaults.negative_prompt == " "
    assert loaded.sizes.reference_area == 1024 * 1024
    assert loaded.pipeline.parts.transformer.dtype == torch.float32


def test_the_checkpoints_own_defaults_give_way_to_settings(checkpoint: Callable[[str], Path]) -> None:
    own = load(settings(checkpoint("plus")), CPU)
    assert (own.defaults.num_inference_steps, own.defaults.true_cfg_scale) == (8, 1.0)
    assert own.sizes.reference_area == 128 * 128
    set_ = load(settings(checkpoint("plus"), DEFAULT_STEPS="3", REFERENCE_AREA="4096", DEFAULT_TRUE_CFG_SCALE="2"), CPU)
    assert (set_.defaults.num_inference_steps, set_.defaults.true_cfg_scale) == (3, 2.0)
    assert set_.sizes.reference_area == 4096


def test_loading_writes_the_classic_log_lines(
    checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "image_edit_server"):
        load(settings(checkpoint("plus")), CPU)
    assert caplog.messages[0] == f"Loading model from {checkpoint('plus')}..."
    assert caplog.messages[-1] == "Model loaded successfully"


def refusal(model_dir: Path | str) -> str:
    with pytest.raises(LoadError) as error:
        load(settings(model_dir), CPU)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refusal("") == "QWEN_MODEL_DIR is not set: set it to a checkpoint folder or a Hub id"
    assert refusal("/nowhere/at/all") == "QWEN_MODEL_DIR=/nowhere/at/all: there is no such folder"
    assert "no model_index.json there" in refusal(tmp_path)
    assert "QWEN_MODEL_DIR=Qwen/Nothing-Here: no such folder, and as a Hub id" in refusal("Qwen/Nothing-Here")


def test_a_checkpoint_of_another_kind_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    assert "a StableDiffusionPipeline checkpoint; one of QwenImageEditPipeline" in refusal(tmp_path)
    for strange in (["QwenImageEditPipeline"], {"a": 1}, None, 3):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": strange}))
        assert f"a {strange} checkpoint; one of" in refusal(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    assert "not a diffusers model_index.json" in refusal(tmp_path)


def test_a_damaged_checkpoint_is_refused_in_one_line(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(checkpoint("plus"), tmp_path / "copy")
    (folder / "transformer").unlink()
    (folder / "transformer").mkdir()
    assert f"QWEN_MODEL_DIR={folder}: " in refusal(folder)


@pytest.mark.parametrize(
    ("component", "name"), [("transformer", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")]
)
def test_pickled_weights_are_not_read(
    checkpoint: Callable[[str], Path], tmp_path: Path, component: str, name: str
) -> None:
    folder, given = copied(checkpoint("plus"), tmp_path / "copy"), checkpoint("plus") / component
    (folder / component).unlink()
    shutil.copytree(given, folder / component, ignore=shutil.ignore_patterns("*.safetensors"))
    (weights,) = given.glob("*.safetensors")
    torch.save(load_file(weights), folder / component / name)
    assert "safetensors" in refusal(folder)


@pytest.mark.parametrize("content", ["{", '{"steps": 3}', '{"num_inference_steps": "3"}'])
def test_a_wrong_serving_json_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path, content: str) -> None:
    folder = copied(checkpoint("plus"), tmp_path / "copy")
    (folder / "serving.json").unlink()
    (folder / "serving.json").write_text(content)
    assert "serving.json" in refusal(folder)


def test_the_device_is_the_instances() -> None:
    assert instance_device("CPU", "0") == CPU
    assert instance_device("GPU", "3") == torch.device("cuda", 3)


def test_the_loading_thread_takes_its_own_gpu_before_anything_is_put_there(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with pytest.raises(LoadError, match="not together"):
        load(settings(checkpoint("plus"), COMPILE="true", OFFLOAD="model"), torch.device("cuda", 1))
    assert taken == [torch.device("cuda", 1)]
