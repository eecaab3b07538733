"""Grey pictures of more than 8 bits → 8 bits, by the type of their numbers: a dark picture stays dark."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

BAND_PIXELS = 2**20  # that are converted at a time
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
SIGNED, WHITE_IS_ZERO = 2, 0


class Depth:
    """Of a picture whose header is read."""

    def __init__(self, picture: Image.Image) -> None:
        self._mode = picture.mode
        self._bits, self._signed, self._inverted = 16, False, False
        if isinstance(picture, TiffImageFile):
            tags = picture.tag_v2
            self._bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
            self._signed = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
            self._inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO

    @property
    def is_deep(self) -> bool:
        return self._mode.startswith("I") or self._mode == "F"

    def eight_bits(self, picture: Image.Image) -> Image.Image:
        """As L, or as LA where a level stands for transparency."""
        values = np.asarray(picture)
        transparent = picture.info.get("transparency")
        grey = np.empty(values.shape, np.uint8)
        alpha = np.full(values.shape, 255, np.uint8) if isinstance(transparent, int) else None
        rows = max(1, BAND_PIXELS // max(1, picture.width))
        for start in range(0, len(values), rows):
            band = values[start : start + rows]
            share = self._share(band)
            grey[start : start + rows] = (255 * (1 - share if self._inverted else share)).round()
            if alpha is not None:
                alpha[start : start + rows][band == transparent] = 0
        whole = Image.fromarray(grey)
        if alpha is not None:
            whole.putalpha(Image.fromarray(alpha))
        return whole

    def _share(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Of the most that their type holds, in 0..1; numbers with a fraction are of 0..1 already."""
        if self._mode == "F":
            return np.nan_to_num(values.astype(np.float32), posinf=1.0, neginf=0.0).clip(0, 1)
        if self._bits == 32 and not self._signed:
            values = values.astype(np.int32).view(np.uint32)  # which Pillow keeps in a signed type
        most = 2.0 ** (self._bits - self._signed) - 1
        share: npt.NDArray[np.float32] = (values.astype(np.float64) / most).clip(0, 1).astype(np.float32)
        return share
