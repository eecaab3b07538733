"""Masks of Qwen-Image-2.1: blended on its latents of 16 pixels, and outside them the source's own pixels and alpha."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw
from qwen_edit.forward import denoise
from qwen_edit.request import EditRequest

from tests.kit import stock
from tests.kit.encoding import encoded
from tests.kit.engines import TestEngine, difference, edit

BOUND = 1e-4
SIDE = 128
AREA = SIDE * SIDE
CELL = 16  # pixels of a latent, a side


@pytest.fixture
def source(photo: Callable[[str], bytes]) -> Image.Image:
    """Of the output's own size, with an alpha of every level."""
    with Image.open(io.BytesIO(photo("cat"))) as cat:
        picture = cat.convert("RGB").resize((160, 96))
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def region(size: tuple[int, int]) -> Image.Image:
    """White where is to be edited: not along the latents' cells."""
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((37, 20, 107, 70), fill=255)
    return mask


@torch.inference_mode()
def oracle(pipeline: Any, request: EditRequest, source: Image.Image) -> npt.NDArray[np.float32]:
    """There is no such pipeline: diffusers' own loop over its transformer, with what a mask does written by hand.

    After each step, outside the region, latents are the source's at the noise level that comes next.
    """
    width, height = source.size
    rows, columns = height // CELL, width // CELL
    pixels = np.asarray(source, np.float32) / 127.5 - 1
    clean = pipeline.vae.encode(torch.tensor(pixels).permute(2, 0, 1)[None, :, None]).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (pipeline.vae.config.latents_mean, pipeline.vae.config.latents_std)
    )
    clean = ((clean - mean) / std)[0, :, 0].flatten(1).T
    drawn = torch.randn(1, 1, clean.shape[1], rows, columns, generator=torch.Generator().manual_seed(request.seed))
    noise = drawn[0, 0].flatten(1).T
    # A latent is edited where any of its pixels is.
    cells = np.asarray(region(source.size)).reshape(rows, CELL, columns, CELL).max(axis=(1, 3))
    edited = torch.tensor(cells / 255.0, dtype=torch.float32).reshape(-1, 1)

    def blend(running: Any, step: int, _: object, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        level = running.scheduler.sigmas[step + 1]
        return {"latents": edited * given["latents"] + (1 - edited) * (level * noise + (1 - level) * clean)}

    latents = stock.run(
        pipeline, [Image.open(io.BytesIO(image)) for image in request.images], prompt=request.prompt,
        negative_prompt=request.negative_prompt if request.guided else None, true_cfg_scale=request.true_cfg_scale,
        size=source.size, num_inference_steps=request.num_inference_steps, seed=request.seed,
        output_resolution=SIDE, use_kv_cache=False, callback_on_step_end=blend,
    )  # fmt: skip
    return np.asarray(latents)


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
def test_a_masked_edit_has_the_latents_of_a_loop_over_diffusers_transformer(
    pipeline: Any, engine: TestEngine, source: Image.Image, photo: Callable[[str], bytes], guidance: float
) -> None:
    request = edit(
        encoded(source), photo("rocket"), mask=encoded(region(source.size)), size=source.size, seed=3,
        true_cfg_scale=guidance, negative_prompt="blurry",
    )  # fmt: skip
    assert difference(engine.latents(request), oracle(pipeline, request, source)) <= BOUND


def test_that_comparison_fails_where_the_source_has_another_noise_level(
    pipeline: Any, engine: TestEngine, source: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = denoise.blended
    monkeypatch.setattr(denoise, "blended", lambda latents, kept, sigma: right(latents, kept, sigma * 0.9))
    request = edit(encoded(source), mask=encoded(region(source.size)), size=source.size, seed=3)
    assert difference(engine.latents(request), oracle(pipeline, request, source)) > 10 * BOUND


def test_outside_a_mask_pixels_and_alpha_are_the_sources(engine: TestEngine, source: Image.Image) -> None:
    answer = engine.submit(edit(encoded(source), mask=encoded(region(source.size)), size=source.size)).wait()
    assert answer.image is not None
    assert answer.alpha is not None
    picture, own = np.dstack([answer.image, answer.alpha]), np.asarray(source)
    outside = np.ones(own.shape[:2], bool)
    outside[20 - CELL : 71 + CELL, 37 - CELL : 108 + CELL] = False
    assert np.array_equal(picture[outside], own[outside])
    inside = np.s_[20 + CELL : 71 - CELL, 37 + CELL : 108 - CELL]
    assert np.abs(picture[inside].astype(int) - own[inside]).mean(axis=(0, 1)).min() > 2, "in each of four channels"


def test_a_stroke_thinner_than_a_latent_is_edited(engine: TestEngine, source: Image.Image) -> None:
    stroke = Image.new("L", source.size, 0)
    ImageDraw.Draw(stroke).rectangle((37, 36, 44, 44), fill=255)
    one, other = (
        engine.submit(edit(encoded(source), mask=encoded(stroke), size=source.size, prompt=prompt)).wait().image
        for prompt in ("a red hat", "a sea of green leaves")
    )
    assert one is not None
    assert other is not None
    assert not np.array_equal(one, other)


def test_a_masked_edit_in_segments_is_that_in_one_piece(engine: TestEngine, source: Image.Image) -> None:
    common = {"mask": encoded(region(source.size)), "size": source.size, "num_inference_steps": 4, "seed": 5}
    whole = engine.submit(edit(encoded(source), **common)).wait()
    first = engine.submit(edit(encoded(source), **common, stop_step=2)).wait()
    rest = engine.submit(edit(encoded(source), **common, start_step=2, latents=first.latents)).wait()
    for one, other in ((whole.image, rest.image), (whole.alpha, rest.alpha)):
        assert one is not None
        assert other is not None
        assert np.array_equal(one, other)
