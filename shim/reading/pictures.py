"""A picture as it was uploaded. Only its header is read here; the model decodes and checks it in full."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Never

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from starlette.datastructures import UploadFile

from shim.errors import InvalidInput
from shim.limits import MAX_ASPECT
from shim.reading.picture_header import Header, TooLong
from shim.reading.pixel_work import excess, most_pixels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# Headers are compared with MAX_INPUT_PIXELS here, so Pillow's own limit (a warning, then an error) has nothing to add.
Image.MAX_IMAGE_PIXELS = None


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
        try:
            with self._lock:
                self.upload.file.seek(0)
                picture = Image.open(Header(self.upload.file), formats=FORMATS)  # type: ignore[arg-type]
                tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else None
                return picture.format, picture.size, excess(tags, self.upload.file) if tags else None
        except TooLong:
            self._refuse("has a header that is too long")
        except Exception:  # a damaged header makes Pillow's readers raise almost anything
            self._refuse("must be a PNG, JPEG, WebP, GIF, BMP or TIFF picture, and its bytes are none of these")

    def _refuse(self, problem: str) -> Never:
        raise InvalidInput(f"{self.label} {problem}", param=self.name)
