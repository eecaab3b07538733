"""Random-weight checkpoints load, edit, are reproducible, and have the real token and parameter counts.

Run: python -m pytest tests/standalone/test_checkpoint.py
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, QwenImageLayeredPipeline
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_plus,
    pipeline_qwenimage_layered,
)
from diffusers.pipelines.qwenimage21 import pipeline_qwenimage21
from numpy.typing import NDArray
from PIL import Image

from checkpoints.random_weights import (
    FAMILIES,
    PIPELINES,
    build_pipeline,
    write_checkpoint,
)
from checkpoints.tokenizer import build_tokenizer, prompt_templates

REFERENCE_AREA = 128 * 128
USER_TURN = "<|im_start|>user\n"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_references(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        pipeline_qwenimage_edit,
        pipeline_qwenimage_edit_plus,
        pipeline_qwenimage_layered,
        pipeline_qwenimage21,
    ):
        monkeypatch.setattr(module, "calculate_dimensions", _with_area(module.calculate_dimensions))


def _with_area(calculate_dimensions: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _area, ratio: calculate_dimensions(REFERENCE_AREA, ratio)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((96, 128), Image.Resampling.BICUBIC)


def edit(
    pipeline: DiffusionPipeline, photo: Image.Image | list[Image.Image], prompt: str = "make the sky blue"
) -> NDArray[np.float32]:
    """The picture after two steps, (height, width, 3) in 0..1; or layers of it."""
    pipeline.set_progress_bar_config(disable=True)
    layered = type(pipeline) is QwenImageLayeredPipeline
    size = {} if layered else {"width": 128, "height": 96}
    output = pipeline(
        image=photo.convert("RGBA") if layered and isinstance(photo, Image.Image) else photo,
        prompt=prompt,
        true_cfg_scale=1.0,
        num_inference_steps=2,
        **size,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    )
    return np.asarray(output.images[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_checkpoint_loads_and_edits(family: str, tmp_path: Path, photo: Image.Image) -> None:
    folder = write_checkpoint(tmp_path / family, family)
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert type(pipeline) is PIPELINES[family]
    assert pipeline.transformer.config.get("zero_cond_t", False) is (family == "plus-2511")
    picture = edit(pipeline, photo)
    assert picture.shape == {"2.1": (96, 128, 4), "2.1-turbo": (96, 128, 4), "layered": (4, 160, 96, 4)}.get(
        family, (96, 128, 3)
    )
    assert np.isfinite(picture).all()
    assert picture.std() > 0.02


def test_loading_gives_the_weights_that_were_built(tmp_path: Path) -> None:
    loaded = DiffusionPipeline.from_pretrained(write_checkpoint(tmp_path, "plus", seed=3), local_files_only=True)
    built = build_pipeline("plus", "tiny", seed=3)
    for name in ("transformer", "vae", "text_encoder"):
        expected, weights = getattr(built, name).state_dict(), getattr(loaded, name).state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_a_plus_checkpoint_takes_several_references(photo: Image.Image) -> None:
    pipeline = build_pipeline("plus-2511", "tiny")
    one, two = edit(pipeline, photo), edit(pipeline, [photo, photo.transpose(Image.Transpose.ROTATE_90)])
    assert not np.array_equal(one, two)


def test_the_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    first, again, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}
        for folder in (write_checkpoint(tmp_path / str(i), seed=seed) for i, seed in enumerate((7, 7, 8)))
    )
    assert len(first) == 3
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_building_leaves_the_global_random_state_and_default_dtype_alone() -> None:
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    build_pipeline("plus", "tiny", dtype=torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() is dtype


def test_a_sensitive_checkpoint_shows_another_prompt_in_the_picture(tmp_path: Path, photo: Image.Image) -> None:
    folder = write_checkpoint(tmp_path, "plus-2511", sensitive=True)
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    difference = np.abs(edit(pipeline, photo) - edit(pipeline, photo, "remove the dog")).max()
    assert difference * 255 > 3


@pytest.mark.parametrize("template", prompt_templates(), ids=["edit", "plus"])
def test_the_dropped_prefix_of_the_template_has_its_real_token_count(template: str) -> None:
    prefix = template[: template.index(USER_TURN) + len(USER_TURN)]
    assert len(build_tokenizer()(prefix)["input_ids"]) == 64


@pytest.mark.parametrize(
    "text", ["", "a cat", "  two\r\n\tlines ", "Žluťoučký kůň", "漢字 и кириллица", "🦜🏽‍♀️\x00"], ids=ascii
)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_control_tokens_have_the_ids_that_the_text_encoder_expects() -> None:
    pipeline = build_pipeline("plus", "tiny")
    tokenizer, config = pipeline.tokenizer, pipeline.text_encoder.config
    tokens = {
        "<|image_pad|>": config.image_token_id,
        "<|video_pad|>": config.video_token_id,
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
    }
    for token, token_id in tokens.items():
        assert tokenizer(token)["input_ids"] == [token_id]
    assert len(tokenizer) <= config.text_config.vocab_size
    # Qwen2.5 counts its control tokens up from <|endoftext|> = 151643; code that knows the order must still be right.
    assert config.image_token_id - tokenizer.convert_tokens_to_ids("<|endoftext|>") == 151655 - 151643


def test_the_full_size_is_the_real_architecture() -> None:
    pipeline = build_pipeline("plus-2511", "full", device="meta")
    models = {name: getattr(pipeline, name) for name in ("transformer", "text_encoder", "vae")}
    parameters = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
    assert parameters == {"transformer": 20_430_401_088, "text_encoder": 8_292_166_656, "vae": 126_892_531}
    assert {weight.dtype for model in models.values() for weight in model.parameters()} == {torch.bfloat16}
    assert {weight.device.type for model in models.values() for weight in model.parameters()} == {"meta"}


def test_the_medium_transformer_has_some_hundred_million_parameters() -> None:
    transformer = build_pipeline("plus", "medium", device="meta").transformer
    assert 200e6 < sum(weight.numel() for weight in transformer.parameters()) < 300e6


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [("turbo", "tiny", "family must be one of"), ("plus", "huge", "size must be one of")],
    ids=["family", "size"],
)
def test_unknown_names_are_refused(family: str, size: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_pipeline(family, size)


def test_the_command_line_writes_a_small_folder(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    command = [sys.executable, "-m", "checkpoints.random_weights", str(folder), "--family", "edit"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    assert json.loads((folder / "serving.json").read_text()) == {
        "num_inference_steps": 8,
        "true_cfg_scale": 1.0,
        "reference_area": REFERENCE_AREA,
    }
    assert "random" in (folder / "README.md").read_text()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 8e6
