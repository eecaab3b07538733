"""Every loading option on the CPU: it loads, edits within its bound, or says in one line what it needs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from qwen_edit.forward.lora_store import LoraStore
from qwen_edit.forward.sigmas import NoiseLevels
from qwen_edit.loading import compiling, quantization
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.load import Loaded, check, load
from qwen_edit.loading.lora_files import LoraFiles
from qwen_edit.loading.loras import Loras
from qwen_edit.loading.presets import LIGHTNING_SCHEDULER
from qwen_edit.pipeline import Row
from qwen_edit.settings import Adapter, Settings
from qwen_edit.settings_grammar import SettingsError
from safetensors.torch import load_file, save_file

from tests.kit.engines import difference, edit, engine_on
from tests.kit.rows import four_rows, largest_difference

CPU = torch.device("cpu")
EXACT = 1e-4  # of the latents' standard deviation, largest difference


@pytest.fixture(scope="module")
def folder(sensitive: Callable[[str], Path]) -> Path:
    return sensitive("plus")


def loaded(folder: Path, **environ: str) -> Loaded:
    settings = Settings.from_environment({"QWEN_MODEL_DIR": str(folder), "REFERENCE_AREA": "4096", **environ})
    return load(find(str(folder)), settings, CPU)


def latents(model: Loaded, cat: bytes, **changes: Any) -> npt.NDArray[np.float32]:
    """Final latents of a guided edit whose two prompts differ in length."""
    with engine_on(model.pipeline.parts, devices=model.pipeline.devices) as engine:
        values = {"true_cfg_scale": 4.0, "negative_prompt": "a blurry picture", "num_inference_steps": 3}
        return engine.latents(edit(cat, **(values | changes)))


@pytest.fixture(scope="module")
def cat(photo: Callable[[str], bytes]) -> bytes:
    return photo("cat")


@pytest.fixture(scope="module")
def reference(folder: Path, cat: bytes) -> npt.NDArray[np.float32]:
    return latents(loaded(folder), cat)


def relative_error(ours: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """Root mean square of the difference over that of the reference."""
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.1), ("float16", 0.1)])
def test_a_dtype_is_the_pipelines(
    folder: Path, cat: bytes, reference: npt.NDArray[np.float32], dtype: str, bound: float
) -> None:
    model = loaded(folder, TORCH_DTYPE=dtype)
    assert model.pipeline.parts.transformer.dtype == model.pipeline.parts.vae.dtype == getattr(torch, dtype)
    assert 0 < relative_error(latents(model, cat), reference) <= bound


def operators(model: Loaded) -> set[str]:
    """The names of torch's operators in a forward of the transformer."""
    with torch.profiler.profile() as profiled:
        compiling.forward(model.pipeline, 4096)
    return {event.key for event in profiled.key_averages()}


@pytest.mark.parametrize(
    ("backend", "kernel"), [("native_math", "attention_math"), ("native_flash", "flash_attention_for_cpu")]
)
def test_an_attention_backend_computes_the_same(
    folder: Path, cat: bytes, reference: npt.NDArray[np.float32], backend: str, kernel: str
) -> None:
    model = loaded(folder, ATTENTION_BACKEND=backend)
    assert difference(latents(model, cat), reference) <= EXACT
    assert f"aten::_scaled_dot_product_{kernel}" in operators(model)
    assert difference(latents(loaded(folder), cat), reference) == 0, "another model in the process keeps its own"


def test_int8_weights_are_close_and_small(
    folder: Path, cat: bytes, reference: npt.NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "image_edit_server"):
        model = loaded(folder, QUANTIZATION="int8", TEXT_ENCODER_QUANTIZATION="int8")
    assert caplog.messages[1:3] == ["QUANTIZATION=int8: 28 layers", "TEXT_ENCODER_QUANTIZATION=int8: 14 layers"]
    assert type(model.pipeline.parts.transformer.transformer_blocks[0].attn.to_q.weight).__name__ == "Int8Tensor"
    assert 0 < relative_error(latents(model, cat), reference) <= 0.05


@pytest.mark.parametrize("target", ["QUANTIZATION", "TEXT_ENCODER_QUANTIZATION"])
def test_each_part_is_quantized_alone(folder: Path, target: str) -> None:
    model = loaded(folder, **{target: "int8"})
    kinds = [
        type(model.pipeline.parts.transformer.transformer_blocks[0].attn.to_q.weight).__name__,
        type(model.pipeline.parts.text_encoder.model.language_model.layers[0].mlp.up_proj.weight).__name__,
    ]
    assert kinds == (["Int8Tensor", "Parameter"] if target == "QUANTIZATION" else ["Parameter", "Int8Tensor"])


def test_fp8_leaves_out_modulations_and_odd_shapes() -> None:
    wanted = quantization.is_quantised
    big, odd = torch.nn.Linear(64, 32), torch.nn.Linear(64, 24)
    target = quantization.TRANSFORMER
    assert wanted("transformer_blocks.0.attn.to_q", big, target, "fp8")
    assert not wanted("transformer_blocks.0.attn.to_q", odd, target, "fp8")
    assert not wanted("transformer_blocks.0.img_mod.1", big, target, "fp8")
    assert wanted("transformer_blocks.0.img_mod.1", big, target, "int8")
    assert not wanted("proj_out", big, target, "int8")
    assert not wanted("transformer_blocks.0.attn.to_q.lora_A.one", big, target, "int8")


def refusal(folder: Path, **environ: str) -> str:
    with pytest.raises(LoadError) as error:
        loaded(folder, **environ)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"QUANTIZATION": "fp8"}, "QUANTIZATION=fp8: a CUDA GPU of compute capability 8.9 or newer is needed"),
        ({"QUANTIZATION": "nf4"}, "QUANTIZATION=nf4: a CUDA GPU is needed, this instance runs on the CPU"),
        ({"TEXT_ENCODER_QUANTIZATION": "fp8"}, "TEXT_ENCODER_QUANTIZATION=fp8: a CUDA GPU of"),
        ({"TEXT_ENCODER_QUANTIZATION": "nf4"}, "TEXT_ENCODER_QUANTIZATION=nf4: a CUDA GPU is needed"),
        ({"OFFLOAD": "model"}, "OFFLOAD=model: a CUDA GPU is needed"),
        ({"OFFLOAD": "group"}, "OFFLOAD=group: a CUDA GPU is needed"),
        ({"ATTENTION_BACKEND": "native_cudnn"}, "ATTENTION_BACKEND=native_cudnn: a CUDA GPU is needed"),
        ({"ATTENTION_BACKEND": "flash"}, "one of native, native_flash, native_math runs there"),
        ({"SCHEDULER_CONFIG": '{"shfit": 3}'}, "SCHEDULER_CONFIG: shfit=3; the keys are base_image_seq_len, "),
        ({"SCHEDULER_CONFIG": '{"time_shift_type": "cubic"}'}, "SCHEDULER_CONFIG: "),
        ({"LORA_DIR": "/nowhere"}, "LORA_DIR=/nowhere: there is no such folder"),
        ({"LORA": "/nowhere/lora.safetensors"}, "LORA=/nowhere/lora.safetensors: there is no such file or folder"),
        ({"DEVICE_MAP": "balanced", "QUANTIZATION": "int8", "TEXT_ENCODER_QUANTIZATION": "fp8"}, "is needed"),
    ],
    ids=str,
)
def test_what_cannot_be_done_here_is_refused_in_one_line(folder: Path, environ: dict[str, str], line: str) -> None:
    assert line in refusal(folder, **environ)


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"OFFLOAD": "model", "COMPILE": "true"}, "COMPILE=true: not together with OFFLOAD=model"),
        ({"OFFLOAD": "model", "DEVICE_MAP": "balanced"}, "OFFLOAD=model: not together with DEVICE_MAP=balanced"),
    ],
)
def test_options_that_exclude_each_other_are_refused_on_a_gpu_too(environ: dict[str, str], line: str) -> None:
    with pytest.raises(LoadError, match=line):
        check(Settings.from_environment(environ), torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("TORCH_DTYPE", "bf16", "one of auto, bfloat16"),
        ("ATTENTION_BACKEND", "fast", "one of native, native_cudnn"),
        ("COMPILE", "maybe", "auto, or one of 1, true, yes, on, 0, false, no, off"),
        ("QUANTIZATION", "int4", "one of none, fp8, int8, nf4"),
        ("OFFLOAD", "disk", "one of none, model, group"),
        ("LORA", "a.safetensors:heavy", "PATH or PATH:WEIGHT"),
        ("LORA", ":0.5", "PATH or PATH:WEIGHT"),
        ("SCHEDULER_CONFIG", "[1]", "a JSON object"),
        ("PRESET", "lightning", "one of lightning-4, lightning-8"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}=.*{allowed} is allowed|{name}='.*: {allowed}"):
        Settings.from_environment({name: value})


def test_adapters_are_paths_with_weights() -> None:
    settings = Settings.from_environment({"LORA": "/a/b.safetensors, c:0.5,d.safetensors:-1"})
    assert settings.loading.adapters == (
        Adapter("/a/b.safetensors", 1.0), Adapter("c", 0.5), Adapter("d.safetensors", -1.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def lora(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LoRA of the attention's queries and of a feed-forward layer, as peft writes it."""
    transformer = loaded(folder).pipeline.parts.transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "net.2"], init_lora_weights=False))
    state = get_peft_model_state_dict(transformer, adapter_name="default")
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("lora") / "tiny.safetensors"
    save_file(
        {f"transformer.{name}": torch.randn(value.shape, generator=generator) * 0.3 for name, value in state.items()},
        path,
    )
    return path


def test_a_lora_changes_the_picture_and_is_the_same_fused_or_not(
    folder: Path, cat: bytes, reference: npt.NDArray[np.float32], lora: Path
) -> None:
    fused = latents(loaded(folder, LORA=str(lora)), cat)
    beside = latents(loaded(folder, LORA=str(lora.parent), LORA_FUSED="false"), cat)
    assert difference(beside, fused) <= EXACT
    assert difference(fused, reference) > 0.1


def test_the_weights_of_adapters_add_up(
    folder: Path, cat: bytes, reference: npt.NDArray[np.float32], lora: Path
) -> None:
    twice = loaded(folder, LORA=f"{lora}:0.75,{lora}:0.25")
    assert difference(latents(twice, cat), latents(loaded(folder, LORA=str(lora)), cat)) <= EXACT
    assert difference(latents(loaded(folder, LORA=f"{lora}:0"), cat), reference) <= EXACT


def test_a_lora_can_be_kept_beside_quantized_weights(folder: Path, cat: bytes, lora: Path) -> None:
    exact = latents(loaded(folder, LORA=str(lora), LORA_FUSED="false"), cat)
    small = latents(loaded(folder, LORA=str(lora), LORA_FUSED="false", QUANTIZATION="int8"), cat)
    assert relative_error(small, exact) <= 0.05


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_an_edits_own_lora_is_added_to_those_of_all_edits_and_to_quantized_weights(
    folder: Path, lora: Path, quantization: str
) -> None:
    options = {"LORA_FUSED": "false", "QUANTIZATION": quantization}
    pipeline = loaded(folder, LORA=str(lora), **options).pipeline
    both = loaded(folder, LORA=f"{lora},{lora}:0.5", **options).pipeline
    found = Loras(LoraFiles(str(lora.parent)), pipeline, 2**20).read("tiny")
    own = LoraStore(pipeline, 2**20).weighed(((found, 0.5),))
    rows = four_rows(pipeline.parts.transformer)
    with torch.inference_mode():
        made = pipeline.velocities([Row(*row[:4], own) for row in rows])
        assert max(map(difference, made, both.velocities(rows))) <= EXACT
        assert difference(made[0], pipeline.velocities(rows)[0]) > 100 * EXACT


def test_a_lora_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"unet.down.lora_A.weight": torch.zeros(2, 4), "unet.down.lora_B.weight": torch.zeros(4, 2)},
              tmp_path / "other.safetensors")  # fmt: skip
    assert f"LORA={tmp_path}/other.safetensors: " in refusal(folder, LORA=f"{tmp_path}/other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    assert f"LORA={tmp_path}/damaged.safetensors: " in refusal(folder, LORA=f"{tmp_path}/damaged.safetensors")
    assert "2 .safetensors files there" in refusal(folder, LORA=str(tmp_path))


def test_a_pickled_lora_is_refused(folder: Path, lora: Path, tmp_path: Path) -> None:
    torch.save(load_file(lora), tmp_path / "tiny.bin")
    assert refusal(folder, LORA=f"{tmp_path}/tiny.bin") == f"LORA={tmp_path}/tiny.bin: a .safetensors file is needed"


@pytest.mark.parametrize("steps", [4, 8])
def test_a_lightning_preset_has_the_authors_noise_levels_steps_and_guidance(folder: Path, steps: int) -> None:
    model = loaded(folder, PRESET=f"lightning-{steps}")
    assert (model.defaults.num_inference_steps, model.defaults.true_cfg_scale) == (steps, 1.0)
    theirs = FlowMatchEulerDiscreteScheduler.from_config(LIGHTNING_SCHEDULER)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=math.log(3))
    levels = NoiseLevels(model.pipeline.scheduler).sigmas(steps, frame_tokens=4096).levels
    assert torch.equal(levels, theirs.sigmas)
    # shift 3 without a terminal level: 3 s / (1 + 2 s)
    spaced = torch.linspace(1.0, 1 / steps, steps)
    torch.testing.assert_close(levels[:-1], 3 * spaced / (1 + 2 * spaced))


def test_explicit_settings_win_over_a_preset(folder: Path) -> None:
    model = loaded(
        folder, PRESET="lightning-8", DEFAULT_STEPS="6", DEFAULT_TRUE_CFG_SCALE="2", SCHEDULER_CONFIG='{"shift": 2.0}'
    )
    assert (model.defaults.num_inference_steps, model.defaults.true_cfg_scale) == (6, 2.0)
    assert model.pipeline.parts.scheduler.config.shift == 2.0
    assert model.pipeline.parts.scheduler.config.base_shift == math.log(3)


def test_a_scheduler_configuration_changes_the_noise_levels(folder: Path) -> None:
    def levels(**environ: str) -> torch.Tensor:
        return NoiseLevels(loaded(folder, **environ).pipeline.scheduler).sigmas(4, 4096).levels

    assert not torch.equal(levels(SCHEDULER_CONFIG='{"max_shift": 1.15}'), levels())
    assert torch.equal(levels(SCHEDULER_CONFIG="{}"), levels())


def test_tiled_decoding_is_close(folder: Path, cat: bytes) -> None:
    pictures = []
    for tiling in ("false", "true"):
        model = loaded(folder, VAE_TILING=tiling)
        with engine_on(model.pipeline.parts) as engine:
            pictures.append(engine.submit(edit(cat, size=(384, 64), num_inference_steps=2)).wait().image)
    whole, tiled = (np.asarray(picture, np.float64) for picture in pictures)
    assert not np.array_equal(whole, tiled)
    assert 10 * np.log10(255**2 / np.mean((whole - tiled) ** 2)) >= 20  # PSNR, dB


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"ATTENTION_BACKEND": "native_math"},
        {"ATTENTION_BACKEND": "native_flash"},
        {"QUANTIZATION": "int8"},
        {"LORA": "{lora}"},
        {"LORA": "{lora}", "LORA_FUSED": "false"},
        {"LORA": "{lora}", "LORA_FUSED": "false", "QUANTIZATION": "int8"},
    ],
    ids=lambda environ: " ".join(f"{name}={value}" for name, value in environ.items()) or "no option",
)
def test_rows_of_any_shape_get_what_diffusers_gives_each_with_the_same_option(
    folder: Path, lora: Path, environ: dict[str, str]
) -> None:
    model = loaded(folder, **{name: value.format(lora=lora) for name, value in environ.items()})
    transformer = model.pipeline.parts.transformer
    assert largest_difference(transformer, four_rows(transformer)) <= EXACT
