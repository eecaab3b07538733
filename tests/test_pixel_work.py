"""One rule of the shim and of the model: what a TIFF's tiles and strips may be together."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import qwen_edit.pictures.pixel_work
import qwen_edit.pictures.tiff_kinds
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from starlette.datastructures import UploadFile

import shim.reading.pixel_work
import shim.reading.tiff_kinds
from shim.reading.pictures import Picture
from tests.kit.decoding import decode
from tests.kit.hostile_pictures import (
    DEFLATED,
    RGB,
    STRIPS,
    TILES,
    deflated_zeros,
    gradient,
    jpeg_of_scans,
    saved,
    tiff_of_pieces,
    tiff_of_tiles,
)

MAX_PIXELS = 5_000_000
SIZE = (300, 200)


def accepted(data: bytes) -> Image.Image:
    """By the shim, and by the model, which decodes it."""
    Picture("image", "image", UploadFile(io.BytesIO(data), size=len(data))).check(MAX_PIXELS)
    return decode(data, MAX_PIXELS)


def photo() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.merge("RGB", [gradient(300).resize(SIZE)] * 3))


def written(values: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **{"photometric": "rgb", **options})
    return file.getvalue()


def test_the_shim_and_the_model_have_the_same_rule() -> None:
    pairs: list[tuple[ModuleType, ModuleType]] = [
        (shim.reading.pixel_work, qwen_edit.pictures.pixel_work),
        (shim.reading.tiff_kinds, qwen_edit.pictures.tiff_kinds),
    ]
    for pair in pairs:
        copies = [Path(module.__file__ or "").read_bytes() for module in pair]
        assert copies[0] == copies[1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 1},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"tile": (16, 16)},
        {"tile": (256, 256), "compression": "zlib"},
        {"tile": (1024, 1024)},
        {"tile": (64, 64), "compression": "lzma"},
    ],
    ids=str,
)
def test_stripped_and_tiled_files_are_decoded(options: dict[str, Any], order: Any) -> None:
    assert np.array_equal(np.asarray(accepted(written(photo(), byteorder=order, **options))), photo())


@pytest.mark.parametrize("options", [{"tile": (64, 64), "compression": "zlib"}, {"rowsperstrip": 50}, {}], ids=str)
def test_planes_of_their_own_are_decoded(options: dict[str, Any]) -> None:
    planes = np.ascontiguousarray(photo().transpose(2, 0, 1))
    assert np.array_equal(np.asarray(accepted(written(planes, planarconfig="separate", **options))), photo())


def test_a_bigtiff_is_decoded() -> None:
    data = written(photo(), bigtiff=True, byteorder="<", tile=(64, 64), compression="zlib")
    assert np.array_equal(np.asarray(accepted(data)), photo())


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate", "jpeg"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_what_pillow_writes_is_decoded(mode: str, compression: str | None) -> None:
    picture = Image.fromarray(photo()).convert(mode)
    assert accepted(saved(picture, "TIFF", compression=compression)).size == SIZE


def test_a_large_planar_picture_needs_no_more_than_its_own_pixels() -> None:
    assert accepted(tiff_of_tiles((2_000, 2_000), (512, 512), planes=3)).size == (2_000, 2_000)


def test_a_strip_may_claim_to_have_rows_without_end() -> None:
    data = tiff_of_pieces((2_000, 2_000), DEFLATED | {278: 2**32 - 1}, STRIPS, 1, deflated_zeros(2_000 * 2_000))
    assert accepted(data).size == (2_000, 2_000)


def test_the_scans_of_each_jpeg_strip_are_its_own() -> None:
    data = saved(gradient(2_048), "TIFF", compression="jpeg", tiffinfo={278: 16})
    assert data.count(b"\xff\xda") == 128
    assert accepted(data).size == (2_048, 2_048)


def test_the_scans_of_jpeg_strips_that_no_pixel_needs_are_not_counted() -> None:
    data = tiff_of_pieces((32, 32), {259: 7, 278: 32}, STRIPS, 4_000, jpeg_of_scans(60, 32))
    assert accepted(data + bytes(2**21)).size == (32, 32)


@pytest.mark.parametrize("tile", [(64, 64), (256, 256)])
@pytest.mark.parametrize("packed", [False, True])
def test_blank_tiles_may_be_shared(packed: bool, tile: tuple[int, int]) -> None:
    shared = deflated_zeros(3 * tile[0] * tile[1]) if packed else bytes(3 * tile[0] * tile[1])
    count = (-(-2_000 // tile[0])) ** 2
    tags = (DEFLATED if packed else {}) | RGB | {322: tile[0], 323: tile[1]}
    assert accepted(tiff_of_pieces((2_000, 2_000), tags, TILES, count, shared)).size == (2_000, 2_000)


def test_large_blocks_of_metadata_are_let_through() -> None:
    blocks = {700: bytes(2**21), 34_377: bytes(2**21), 301: tuple(range(2**16)) * 3}
    data = saved(gradient(64), "TIFF", icc_profile=bytes(2**21), dpi=(72.5, 72.5), tiffinfo=blocks)
    assert accepted(data).size == (64, 64)


@given(
    st.tuples(st.integers(1, 4_000), st.integers(1, 4_000)),
    st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1)),
    st.sampled_from([1, 3]),
)
@settings(max_examples=200)
def test_what_is_let_through_is_at_most_twice_its_pixels_and_a_tile(
    size: tuple[int, int], tile: tuple[int, int], planes: int
) -> None:
    """Whether the file says how many tiles it has or not."""
    values = {256: size[0], 257: size[1], 258: 8, 262: 1, 259: 8, 277: 1, 322: tile[0], 323: tile[1], 324: 8, 325: 1}
    values |= {277: 3, 262: 2, 284: 2} if planes == 3 else {}
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    file = io.BytesIO(b"II*\0" + struct.pack("<IH", 8, len(values)) + listed + bytes(4))
    picture = Image.open(file)
    assert isinstance(picture, TiffImageFile)
    across, down = -(-size[0] // tile[0]), -(-size[1] // tile[1])
    decoded = across * down * max(tile[0] * tile[1], 1024) * planes
    refused = shim.reading.pixel_work.excess(picture.tag_v2, file) is not None
    assert refused == (decoded > 2 * size[0] * size[1] * planes + 2**22)
