"""The pictures of an answer, and how alike two of them are."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

MOST_DIFFERING = 0.001  # of a picture's values, by one grey level: the rounding of batches

Pixels = npt.NDArray[np.uint8]  # (height, width, 3)


def pictures(answer: dict[str, Any]) -> list[Pixels]:
    """The pictures of an edit's JSON answer, each (height, width, 3)."""
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))) for item in answer["data"]]


def grey_levels(a: Pixels, b: Pixels) -> int:
    """The largest difference of two pictures of one size."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def same(ours: list[Pixels], expected: list[Pixels]) -> bool:
    """At most one grey level, in fewer than a thousandth of the values."""
    if [picture.shape for picture in ours] != [picture.shape for picture in expected]:
        return False
    differences = [np.abs(a.astype(int) - b.astype(int)) for a, b in zip(ours, expected, strict=True)]
    return all(d.max() <= 1 and (d > 0).mean() < MOST_DIFFERING for d in differences)
