"""Reference pictures of a request, kept as small as their encoding allows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from PIL import Image

from qwen_edit.families.family import Size
from qwen_edit.pictures import images


class Reference:
    """An uploaded reference image; decoded when its pixels are first needed."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self._data = data
        self._max_pixels = max_pixels
        self._decoded: Image.Image | None = None
        self._resized: dict[Size, Image.Image] = {}
        self.digest = hashlib.sha256(data).digest()

    @property
    def picture(self) -> Image.Image:
        if self._decoded is None:
            self._decoded = images.decode(self._data, "image", self._max_pixels)
        return self._decoded

    def at(self, size: Size) -> Image.Image:
        """The picture resized as the pipelines do it."""
        if size not in self._resized:
            self._resized[size] = self.picture.resize(size, Image.Resampling.LANCZOS)
        return self._resized[size]

    def keep_only(self, sizes: Iterable[Size]) -> None:
        """Drops the decoded picture, which can be fifty times as large as what is needed of it."""
        self._resized = {size: self.at(size) for size in sizes}
        self._decoded = None
