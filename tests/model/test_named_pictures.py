"""A continued edit whose pictures are named instead of sent."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qwen_edit.errors import UnknownPictures
from qwen_edit.request import EditRequest

from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline


@pytest.fixture(scope="module")
def pipeline(checkpoint: Callable[[str], Path]) -> Any:
    return load_pipeline(checkpoint("plus-2511"))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline) as running:
        yield running


@pytest.fixture
def pictures(photo: Callable[[str], bytes]) -> tuple[bytes, bytes]:
    return photo("cat"), photo("coffee")


def left_half(image: bytes, share: float = 0.5) -> bytes:
    """A mask of the picture's size."""
    width, height = Image.open(io.BytesIO(image)).size
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, round(width * share), height))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def rest(first: EditRequest, latents: Any, *, named: bool) -> EditRequest:
    """The same edit from its second step on."""
    names = tuple(hashlib.sha256(image).digest() for image in first.images)
    pictures = {"images": (), "pictures": names} if named else {}
    return replace(first, start_step=2, stop_step=first.num_inference_steps, latents=latents, **pictures)  # type: ignore[arg-type]


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
def test_an_edit_whose_pictures_are_named_is_the_same_and_decodes_none(
    engine: TestEngine, pictures: tuple[bytes, bytes], guidance: float
) -> None:
    first = edit(*pictures, true_cfg_scale=guidance, stop_step=2)
    stopped = engine.submit(first).wait()
    assert stopped.timings["named"] is True
    decoded = engine.watch.pictures
    sent, named = (engine.submit(rest(first, stopped.latents, named=named)).wait().image for named in (False, True))
    assert sent is not None
    assert named is not None
    assert np.array_equal(sent, named)
    assert engine.watch.pictures == decoded


def test_pictures_that_were_never_seen_have_to_be_sent(engine: TestEngine, pictures: tuple[bytes, bytes]) -> None:
    first = edit(*pictures, stop_step=2)
    stopped = engine.submit(first).wait()
    other = rest(first, stopped.latents, named=True)
    with pytest.raises(UnknownPictures, match="send the pictures"):
        engine.submit(replace(other, pictures=(*other.pictures[:1], b"?" * 32))).wait()
    assert engine.watch.edits == {}
    assert engine.submit(rest(first, stopped.latents, named=False)).wait().image is not None


def test_a_masked_edit_that_goes_on_decodes_neither_its_source_nor_its_mask(
    engine: TestEngine, pictures: tuple[bytes, bytes]
) -> None:
    first = edit(pictures[0], mask=left_half(pictures[0]), size=(96, 64), stop_step=2)
    stopped = engine.submit(first).wait()
    assert engine.watch.pictures == 2
    sent, named = (engine.submit(rest(first, stopped.latents, named=named)).wait().image for named in (False, True))
    assert sent is not None
    assert named is not None
    assert np.array_equal(sent, named)
    assert engine.watch.pictures == 2
    other = replace(rest(first, stopped.latents, named=False), mask=left_half(pictures[0], share=0.25))
    assert engine.submit(other).wait().image is not None
    assert engine.watch.pictures > 2


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_another_server_has_to_be_sent_them(pipeline: Any, pictures: tuple[bytes, bytes], masked: bool) -> None:
    mask = left_half(pictures[0]) if masked else None
    first = edit(*pictures, mask=mask, size=(96, 64), stop_step=2)
    with engine_on(pipeline) as engine:
        stopped = engine.submit(first).wait()
    with engine_on(pipeline) as engine:
        with pytest.raises(UnknownPictures):
            engine.submit(rest(first, stopped.latents, named=True)).wait()
        assert engine.submit(rest(first, stopped.latents, named=False)).wait().image is not None
        assert engine.submit(rest(first, stopped.latents, named=True)).wait().image is not None
