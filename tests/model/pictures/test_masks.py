"""Masks: what they mean, what is kept, and that inpainting equals diffusers' own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from qwen_edit.errors import BadRequest
from qwen_edit.pictures.masks import Mask

from tests.kit import stock
from tests.kit.decoding import decode_mask
from tests.kit.encoding import encoded
from tests.kit.engines import TestEngine, difference, edit, engine_on, load_pipeline
from tests.kit.in_process import wait_until

AREA = 128 * 128
FEATHER_PIXELS = 4  # half a latent cell of these checkpoints


@pytest.fixture(scope="module", params=["edit", "plus-2511"])
def pipeline(request: pytest.FixtureRequest, sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive(request.param))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline, reference_area=AREA) as running:
        yield running


def region(size: tuple[int, int]) -> Image.Image:
    """White where the middle of the picture is to be edited."""
    mask = Image.new("L", size, 0)
    width, height = size
    ImageDraw.Draw(mask).rectangle((width // 4, height // 4, width // 2, height * 3 // 4), fill=255)
    return mask


def mask_for(image: bytes) -> bytes:
    return encoded(region(Image.open(io.BytesIO(image)).size))


@pytest.mark.parametrize("size", [(128, 80), (192, 128), None], ids=str)
def test_outside_the_mask_the_source_keeps_its_own_pixels(
    engine: TestEngine, photo: Callable[[str], bytes], size: tuple[int, int] | None
) -> None:
    image = photo("cat")
    asked = edit(image, mask=mask_for(image), size=size)
    if size == (128, 80):
        with pytest.raises(BadRequest, match="size: 128x80: with a mask, the aspect ratio of the mask, 448x298"):
            engine.submit(asked).wait()
        return
    picture = engine.submit(asked).wait().image
    assert picture is not None
    height, width, _ = picture.shape
    source = np.asarray(Image.open(io.BytesIO(image)).resize((width, height), Image.Resampling.LANCZOS))
    edited = np.asarray(region((width, height)).filter(_grown())) > 0
    assert np.array_equal(picture[~edited], source[~edited])
    inside = np.asarray(region((width, height)).filter(_shrunk())) > 0
    assert np.abs(picture[inside].astype(int) - source[inside]).mean() > 5


def _grown() -> Any:
    return ImageFilter.MaxFilter(2 * (FEATHER_PIXELS + 3) + 1)


def _shrunk() -> Any:
    return ImageFilter.MinFilter(2 * FEATHER_PIXELS + 1)


@pytest.mark.parametrize("cell", [4, 8])
def test_the_seam_is_blended_over_one_latent_cell(cell: int) -> None:
    black = Image.new("RGB", (64, 32))
    right_half = Image.fromarray(np.repeat(np.array([[0] * 32 + [255] * 32], np.uint8), 32, axis=0))
    white = np.full((32, 64, 3), 255, dtype=np.uint8)
    row = Mask(right_half, right_half, black).composite(white, cell)[16, :, 0]
    between = np.flatnonzero((row > 0) & (row < 255))
    assert (between[0], between[-1]) == (32 - cell // 2, 31 + cell // 2)


def test_a_mask_has_the_bytes_of_its_pictures() -> None:
    small, large = Image.new("L", (32, 16)), Image.new("L", (64, 32))
    assert Mask(small, large, Image.new("RGBA", (64, 32))).nbytes == 32 * 16 + 64 * 32 * (1 + 4)


def test_a_masked_edit_among_unmasked_ones_equals_its_solo_run(
    engine: TestEngine, photo: Callable[[str], bytes]
) -> None:
    image = photo("astronaut")
    masked = edit(image, mask=mask_for(image), size=(64, 64), num_inference_steps=8)
    reference = engine.latents(masked)
    others = [edit(image, prompt=f"other {n}", seed=n, size=(64, 64)) for n in range(3)]
    again = edit(image, mask=mask_for(image), size=(64, 64), num_inference_steps=8)
    engine.worker.before_step = lambda: wait_until(lambda: engine.worker.prepared == 1 + 4)
    answers = [engine.submit(other) for other in (*others, again)]
    answers[-1].wait()
    assert difference(engine.final_latents[again.id], reference) <= 1e-4
    for answer in answers:
        answer.wait()
    assert max(jobs for jobs, _ in engine.watch.batches) >= 3


def test_a_masked_edit_in_segments_equals_the_one_in_one_piece(
    engine: TestEngine, photo: Callable[[str], bytes]
) -> None:
    image = photo("astronaut")
    common = {"mask": mask_for(image), "size": (64, 64), "num_inference_steps": 6, "seed": 5}
    whole = engine.submit(edit(image, **common)).wait().image
    first = engine.submit(edit(image, **common, stop_step=2)).wait()
    rest = engine.submit(edit(image, **common, start_step=2, latents=first.latents)).wait().image
    assert whole is not None
    assert rest is not None
    assert np.array_equal(whole, rest)


def test_inpainting_equals_that_of_diffusers(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers samples the source's latents, before the noise; the engine takes their mode, as for references."""
    from diffusers import QwenImageEditInpaintPipeline
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_inpaint as module

    pipeline = load_pipeline(sensitive("edit"))
    inpaint = QwenImageEditInpaintPipeline(**pipeline.components)
    inpaint.set_progress_bar_config(disable=True)
    image = photo("astronaut")
    source = Image.open(io.BytesIO(image))
    monkeypatch.setattr(
        module, "retrieve_latents", lambda encoded, generator=None, sample_mode="sample": encoded.latent_dist.mode()
    )
    original = module.calculate_dimensions
    monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: original(AREA, ratio))
    with torch.inference_mode():
        theirs = inpaint(
            image=source, mask_image=region(source.size), prompt="paint it", negative_prompt=" ", true_cfg_scale=3.0,
            num_inference_steps=6, strength=1.0, generator=torch.Generator().manual_seed(4), output_type="latent",
        ).images[0]  # fmt: skip
    with engine_on(pipeline, reference_area=AREA) as engine, stock.areas(engine.sizes):
        request = edit(
            image, mask=mask_for(image), size=None, prompt="paint it", true_cfg_scale=3.0, num_inference_steps=6, seed=4
        )
        assert difference(engine.latents(request), theirs) <= 1e-4


def test_transparent_pixels_are_edited() -> None:
    picture = Image.new("RGBA", (40, 40), (255, 255, 255, 255))
    picture.paste((0, 0, 0, 0), (10, 10, 20, 20))
    decoded = np.asarray(decode_mask(encoded(picture), 10**6))
    assert decoded[15, 15] == 255
    assert decoded.astype(bool).sum() == 100


def test_without_an_alpha_channel_white_is_edited() -> None:
    decoded = np.asarray(decode_mask(encoded(region((40, 40))), 10**6))
    assert np.array_equal(decoded, np.asarray(region((40, 40))))


@pytest.mark.parametrize(
    ("picture", "hint"),
    [
        (Image.new("RGBA", (20, 20), (9, 9, 9, 255)), "make the region to edit transparent"),
        (Image.new("RGB", (20, 20), (9, 9, 9)), "paint the region to edit white"),
    ],
    ids=["opaque alpha", "black"],
)
def test_a_mask_without_a_region_is_an_error_that_says_how_to_make_one(picture: Image.Image, hint: str) -> None:
    with pytest.raises(BadRequest, match=hint):
        decode_mask(encoded(picture), 10**6)


def test_a_mask_of_another_shape_than_the_first_reference_is_refused(
    engine: TestEngine, photo: Callable[[str], bytes]
) -> None:
    request = edit(photo("cat"), mask=encoded(region((100, 100))))
    with pytest.raises(BadRequest, match="mask: 100x100: the aspect ratio of the first reference image, 448x298"):
        engine.submit(request).wait()


def test_a_mask_of_another_resolution_but_the_same_shape_is_taken(
    engine: TestEngine, photo: Callable[[str], bytes]
) -> None:
    request = edit(photo("astronaut"), mask=encoded(region((112, 112))), size=(64, 64))
    assert engine.submit(request).wait().image is not None
