"""What the decoders' processes do, in this one."""

from __future__ import annotations

from PIL import Image
from qwen_edit.pictures import regions
from qwen_edit.pictures.images import PictureFile, flattened, judged


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The whole picture as RGB; raises BadRequest."""
    with judged(data, "image"):
        return flattened(PictureFile(data, "image", max_pixels).decoded()).convert("RGB")


def decode_mask(data: bytes, max_pixels: int) -> Image.Image:
    with judged(data, "mask"):
        return regions.region(PictureFile(data, "mask", max_pixels).decoded())
