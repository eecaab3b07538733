"""A drawing with transparency is laid over the first reference image, as if it had been sent so."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from qwen_edit.conditioning.references import references_of
from qwen_edit.errors import BadRequest
from qwen_edit.request import EditRequest

from tests.kit.encoding import encoded
from tests.kit.engines import MAX_INPUT_PIXELS, MAX_PIXELS, TestEngine, edit, engine_on, load_pipeline, shared_decoders

SIZE = (192, 128)
TURNED = 6  # EXIF: shown a quarter turn to the right


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[TestEngine]:
    with engine_on(load_pipeline(checkpoint("plus-2511"))) as running:
        yield running


@pytest.fixture
def source(photo: Callable[[str], bytes]) -> Image.Image:
    with Image.open(io.BytesIO(photo("cat"))) as cat:
        return cat.convert("RGB").resize(SIZE)


def drawing(size: tuple[int, int] = SIZE) -> Image.Image:
    """A red box, and a blue one that is half transparent."""
    layer = Image.new("RGBA", size)
    width, height = size
    pen = ImageDraw.Draw(layer)
    pen.rectangle((width // 8, height // 4, width // 2, height // 2), fill=(255, 0, 0, 255))
    pen.rectangle((width // 2, height // 2, width - 1, height - 1), fill=(0, 0, 255, 128))
    return layer


def first_at(request: EditRequest, size: tuple[int, int], *, alpha: bool = False) -> Image.Image:
    first = references_of(request, shared_decoders(MAX_INPUT_PIXELS, MAX_PIXELS), alpha=alpha)[0]
    first.decode(lambda _: [size])
    return first.at(size)


def levels(picture: Image.Image) -> Any:
    return np.asarray(picture, dtype=np.int16)


@pytest.mark.parametrize("drawn_at", [SIZE, (384, 256), (97, 64)], ids=["same size", "larger", "smaller"])
@pytest.mark.parametrize("alpha", [False, True], ids=["flattened", "with alpha"])
def test_it_is_composited_at_every_size(source: Image.Image, drawn_at: tuple[int, int], alpha: bool) -> None:
    request = edit(encoded(source), encoded(source), markup=encoded(drawing(drawn_at)))
    whole = Image.alpha_composite(source.convert("RGBA"), drawing())
    for size in (SIZE, (96, 64)):
        expected = whole.convert("RGBA" if alpha else "RGB").resize(size, Image.Resampling.LANCZOS)
        found = first_at(request, size, alpha=alpha)
        assert found.mode == expected.mode
        assert np.median(abs(levels(found) - levels(expected))) <= 1
        assert abs(levels(found) - levels(expected)).mean() < 2, "but for the edges of what is drawn"


def test_a_transparent_picture_keeps_its_alpha_around_it(source: Image.Image) -> None:
    source.putalpha(0)
    found = first_at(edit(encoded(source), markup=encoded(drawing())), SIZE, alpha=True)
    assert found.getpixel((60, 50)) == (255, 0, 0, 255)
    assert found.getchannel("A").getpixel((2, 2)) == 0


def test_it_lies_on_the_picture_as_it_is_shown(source: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    file = io.BytesIO()
    source.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    found = first_at(edit(file.getvalue(), markup=encoded(drawing())), SIZE)
    assert found.getpixel((60, 50)) == (255, 0, 0)


def test_only_the_first_picture_has_it(source: Image.Image) -> None:
    request = edit(encoded(source), encoded(source), markup=encoded(drawing()))
    first, second = references_of(request, shared_decoders(MAX_INPUT_PIXELS, MAX_PIXELS), alpha=False)
    second.decode(lambda _: [SIZE])
    assert np.array_equal(levels(second.at(SIZE)), levels(source))
    assert first.digest != second.digest


def test_an_edit_with_it_is_that_of_the_picture_with_it(engine: TestEngine, source: Image.Image) -> None:
    drawn = Image.alpha_composite(source.convert("RGBA"), drawing()).convert("RGB")
    plain, with_it, composited = (
        engine.latents(edit(encoded(picture), markup=markup))
        for picture, markup in ((source, None), (source, encoded(drawing())), (drawn, None))
    )
    assert abs(with_it - composited).mean() < abs(plain - composited).mean() / 4


def test_its_picture_can_be_named_and_another_drawing_is_another_picture(
    engine: TestEngine, source: Image.Image
) -> None:
    first = edit(encoded(source), markup=encoded(drawing()), stop_step=2)
    stopped = engine.submit(first).wait()
    rest = replace(first, start_step=2, stop_step=4, latents=stopped.latents)
    decoded = engine.watch.pictures
    names = tuple(hashlib.sha256(image).digest() for image in first.images)
    sent, named = (engine.submit(each).wait().image for each in (rest, replace(rest, images=(), pictures=names)))
    assert sent is not None
    assert named is not None
    assert np.array_equal(sent, named)
    assert engine.watch.pictures == decoded
    other = encoded(drawing().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    drawn_otherwise = engine.submit(replace(rest, markup=other)).wait().image
    assert drawn_otherwise is not None
    assert not np.array_equal(drawn_otherwise, sent)


@pytest.mark.parametrize(
    ("markup", "says"),
    [
        (drawing((128, 128)), "markup: 128x128: the aspect ratio of the first reference image, 192x128, is needed"),
        (drawing().convert("RGB"), "markup: opaque everywhere, so that it would hide the picture"),
        (Image.new("RGBA", SIZE, "red"), "markup: opaque everywhere"),
    ],
    ids=["another shape", "without alpha", "alpha of 255"],
)
def test_what_does_not_fit_is_refused(engine: TestEngine, source: Image.Image, markup: Image.Image, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        engine.submit(edit(encoded(source), markup=encoded(markup))).wait()
    assert says in refused.value.message


def test_what_is_no_picture_is_refused_by_its_name(engine: TestEngine, source: Image.Image) -> None:
    with pytest.raises(BadRequest, match=r"markup: 4 bytes, not a known kind of picture"):
        engine.submit(edit(encoded(source), markup=b"nope")).wait()
