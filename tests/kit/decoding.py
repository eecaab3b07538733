"""What the decoders' processes do, in this one."""

from __future__ import annotations

from PIL import Image
from qwen_edit.pictures import decoder, regions
from qwen_edit.pictures.images import PictureFile, judged


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The whole picture as sRGB; raises BadRequest."""
    with judged(data, "image"):
        file = PictureFile(data, "image", max_pixels)
        return decoder.coloured(file, None, [file.size])[0]


def decode_mask(data: bytes, max_pixels: int) -> Image.Image:
    with judged(data, "mask"):
        return regions.region(PictureFile(data, "mask", max_pixels).decoded())
