"""Sizes are answered as asked, and nothing is squeezed, cropped or shifted on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from qwen_edit.families.asked import MAX_ASPECT
from qwen_edit.families.family import SOURCE, Size
from qwen_edit.families.grid import aspect_error, grid_size, grid_size_at, within
from qwen_edit.families.known import FAMILIES
from qwen_edit.families.plus import PLUS
from qwen_edit.families.sizes import ENLARGED, Sizes
from qwen_edit.settings import MIN_SIDE, Limits

from tests.kit.encoding import encoded
from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline
from tests.kit.registration import drawing, grey, shift
from tests.kit.servers import PROJECT

DEMO = PROJECT / "checkpoints/demo/qwen-image-edit-demo"
AREA = 256 * 256
TOKEN = 16
MOST_FOR_SHAPE = 512 * 512  # pixels: a small size of an odd shape is rendered larger, not in another
MEGAPIXEL = 1024 * 1024


def as_shapes(sizes: st.SearchStrategy[Size]) -> st.SearchStrategy[Size]:
    return sizes.filter(lambda size: max(size) <= MAX_ASPECT * min(size))


SIDES = st.integers(MIN_SIDE, 2048)
ASKED = as_shapes(st.tuples(SIDES, SIDES))
PHOTOGRAPHS = as_shapes(st.tuples(st.integers(1, 9000), st.integers(1, 9000)))


def is_whole(size: Size, cell: int) -> bool:
    return size[0] % cell == size[1] % cell == 0 and min(size) >= cell


@hypothesis.given(size=ASKED)
def test_what_is_rendered_has_the_shape_that_was_asked_for(size: Size) -> None:
    rendered = grid_size(size, TOKEN)
    assert is_whole(rendered, TOKEN)
    assert aspect_error(rendered, size) <= 0.02
    assert all(side >= 0.98 * asked for side, asked in zip(rendered, size, strict=True))
    assert rendered[0] * rendered[1] <= max(1.2 * size[0] * size[1], MOST_FOR_SHAPE)


@hypothesis.given(size=PHOTOGRAPHS)
def test_a_checkpoint_of_one_area_renders_at_about_that(size: Size) -> None:
    rendered = grid_size_at(size, AREA, TOKEN)
    assert is_whole(rendered, TOKEN)
    assert aspect_error(rendered, size) <= 0.03
    assert AREA / 1.3 <= rendered[0] * rendered[1] <= AREA * 1.3


@hypothesis.given(size=PHOTOGRAPHS, family=st.sampled_from(list(FAMILIES.values())))
def test_the_automatic_size_keeps_the_shape(size: Size, family: Any) -> None:
    geometry = Sizes(family, MEGAPIXEL, TOKEN).geometry([size], None, masked=False)
    assert aspect_error(geometry.answer, size) <= 0.005
    assert aspect_error(geometry.output, size) <= 0.02
    assert is_whole(geometry.output, 2 * TOKEN)
    assert all(a <= o for a, o in zip(geometry.answer, geometry.output, strict=True))


@hypothesis.given(size=PHOTOGRAPHS)
def test_the_size_of_the_source_is_its_own_or_the_largest_of_its_shape(size: Size) -> None:
    limits = Limits()
    geometry = Sizes(PLUS, MEGAPIXEL, TOKEN, limits=limits).geometry([size, (500, 300)], SOURCE, masked=False)
    pixels = size[0] * size[1]
    if min(size) >= MIN_SIDE and pixels <= ENLARGED * limits.pixels:
        assert geometry.answer == size
    else:
        assert min(geometry.answer) == MIN_SIDE or pixels > ENLARGED * limits.pixels
        assert aspect_error(geometry.answer, size) <= 1 / min(geometry.answer) + 1e-3
    width, height = geometry.output
    assert width * height <= 1.1 * limits.pixels
    assert max(width, height) <= 1.1 * limits.side
    assert aspect_error(geometry.output, geometry.answer) <= 0.03


def test_a_limit_leaves_the_largest_of_the_shape() -> None:
    assert within((4032, 3024), 2048, 1536 * 1536, 64) == (1773, 1330)
    assert within((4000, 1000), 2048, 1536 * 1536, 64) == (2048, 512)
    assert within((640, 480), 2048, 1536 * 1536, 64) == (640, 480)
    assert within((40, 20), 2048, 1536 * 1536, 64) == (128, 64)


@pytest.fixture(scope="module")
def demo() -> Iterator[TestEngine]:
    with engine_on(load_pipeline(DEMO), reference_area=AREA, one_area=True) as running:
        yield running


SHAPES: list[tuple[Size, Size | None]] = [
    ((400, 400), (240, 240)), ((500, 333), (600, 400)), ((640, 200), None), ((333, 500), SOURCE),
    ((496, 528), (248, 264)),
]  # fmt: skip


@pytest.mark.parametrize(("own", "asked"), SHAPES, ids=str)
def test_the_demo_shows_the_whole_picture_where_it_was(demo: TestEngine, own: Size, asked: Size | None) -> None:
    source = drawing(own)
    image = (
        demo.submit(edit(encoded(source), prompt="keep it as it is", size=asked, num_inference_steps=2)).wait().image
    )
    assert image is not None
    answered = Image.fromarray(image)
    expected = {None: answered.size, SOURCE: own}.get(asked, asked)
    assert answered.size == expected
    assert aspect_error(answered.size, own if asked is None else answered.size) <= 0.005
    rows, columns = shift(grey(answered), grey(source.resize(answered.size, Image.Resampling.LANCZOS)))
    assert max(abs(rows), abs(columns)) <= 0.5


def test_outside_a_mask_the_answer_has_the_sources_own_pixels(demo: TestEngine) -> None:
    source = drawing((600, 400))
    region = Image.new("L", source.size)
    ImageDraw.Draw(region).rectangle((200, 100, 400, 300), fill=255)
    request = edit(encoded(source), prompt="make it red", mask=encoded(region), size=SOURCE, num_inference_steps=2)
    image = demo.submit(request).wait().image
    assert image is not None
    assert image.shape == (400, 600, 3)
    kept = np.asarray(region) == 0
    kept[80:320, 180:420] = False  # the seam
    own = np.asarray(source)
    assert np.array_equal(image[kept], own[kept])
    assert not np.array_equal(image[150:250, 250:350], own[150:250, 250:350])


def test_a_run_in_segments_is_that_in_one_piece(demo: TestEngine) -> None:
    source = encoded(drawing((300, 200)))
    options: dict[str, Any] = {"prompt": "make it red", "size": (450, 301), "num_inference_steps": 2, "seed": 3}
    whole = demo.submit(edit(source, **options)).wait().image
    first = demo.submit(edit(source, stop_step=1, preview=100, **options)).wait()
    assert first.preview is not None
    assert first.preview.shape == (67, 100, 3)
    rest = demo.submit(edit(source, start_step=1, latents=first.latents, **options)).wait().image
    assert np.array_equal(np.asarray(rest), np.asarray(whole))
