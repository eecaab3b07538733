"""A picture as it was uploaded. Only its header is read here; the model decodes and checks it in full."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Never

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from starlette.datastructures import UploadFile

from shim.errors import InvalidInput
from shim.limits import MAX_ASPECT
from shim.reading import tiff_kinds
from shim.reading.picture_header import START_BYTES, Header, TooLong, is_heic, is_tiff, png_size
from shim.reading.pixel_work import excess, most_pixels, unreadable

CHUNK_BYTES = 2**18
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
NO_PICTURE = "must be a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF picture, and its bytes are none of these"
STRANGE_TIFF = (
    "is a TIFF of a kind that is not decoded here: 8 bits of grey, RGB or CMYK are, 16 of these or 16 or 32 of grey, "
    "signed or floating too"
)
HEIC = (
    "is a HEIC picture, which is not decoded here: send it as JPEG "
    "(an iPhone takes JPEG under Settings, Camera, Formats, Most Compatible)"
)

# Headers are compared with MAX_INPUT_PIXELS here, so Pillow's own limit (a warning, then an error) has nothing to add.
Image.MAX_IMAGE_PIXELS = None
tiff_kinds.register()


@dataclass(frozen=True)
class Picture:
    name: str  # the form field's, without `[]`
    label: str  # the same, and which of several files
    upload: UploadFile
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def length(self) -> int:
        """Blocks; bytes of the file."""
        with self._lock:
            return self.upload.file.seek(0, os.SEEK_END)

    @cached_property
    def digest(self) -> str:
        """Blocks; the SHA-256 of its bytes, in hexadecimal digits."""
        digest, start = hashlib.sha256(), 0
        while chunk := self.read(start, CHUNK_BYTES):
            digest.update(chunk)
            start += len(chunk)
        return digest.hexdigest()

    def read(self, start: int, size: int) -> bytes:
        """Blocks; several edits of one picture read the same file."""
        with self._lock:
            self.upload.file.seek(start)
            return self.upload.file.read(size)

    def check(self, max_pixels: int) -> None:
        """Blocks; raises InvalidInput for what is no picture, too large or too long."""
        file_format, (width, height), problem = self._header()
        max_pixels = most_pixels(file_format, max_pixels)
        if width * height > max_pixels:
            self._refuse(f"must have at most {max_pixels} pixels, got {width}x{height}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            self._refuse(f"must have an aspect ratio from 1:{MAX_ASPECT} to {MAX_ASPECT}:1, got {width}x{height}")
        if problem:
            self._refuse(problem)

    def _header(self) -> tuple[str | None, tuple[int, int], str | None]:
        """Its format and size, and what it has more of than a picture of that size needs."""
        start = self.read(0, START_BYTES)
        try:
            with self._lock:
                if size := png_size(start):
                    return "PNG", size, None
                if is_heic(start):
                    self._refuse(HEIC)
                if problem := unreadable(self.upload.file):
                    self._refuse(problem)
                self.upload.file.seek(0)
                picture = Image.open(Header(self.upload.file), formats=FORMATS)  # type: ignore[arg-type]
                tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else None
                return picture.format, picture.size, excess(tags, self.upload.file) if tags else None
        except InvalidInput:
            raise
        except TooLong:
            self._refuse("has a header that is too long")
        except Exception:  # a damaged header makes Pillow's readers raise almost anything
            self._refuse(STRANGE_TIFF if is_tiff(start) else NO_PICTURE)

    def _refuse(self, problem: str) -> Never:
        raise InvalidInput(f"{self.label} {problem}", param=self.name)
