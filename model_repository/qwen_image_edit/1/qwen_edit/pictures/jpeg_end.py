"""JPEG files that break off: those of which next to nothing is missing are shown by every viewer."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

END = b"\xff\xd9"
MOST_MISSING = 16  # a share of the rows, and rows of the smallest: as many as are coded together
SCANS = 6  # of a progressive one, each over all pixels: what is missing then is fine detail
SHRINKING = 8  # the most that a JPEG decoder does, and it is fastest so


def mended(data: bytes, scans: int) -> bytes | None:
    """With an end; None where more is missing than that."""
    picture = Image.open(io.BytesIO(data))
    if picture.info.get("progressive"):
        complete = scans >= SCANS
    else:
        complete = _missing_rows(data) <= max(MOST_MISSING, picture.height // MOST_MISSING)
    return data + END if complete else None


def _missing_rows(data: bytes) -> int:
    """That decoding never comes to: they keep what was there before."""
    black, white = (_decoded_over(data, level) for level in (0, 255))
    missing = (black != white).reshape(len(black), -1).any(axis=1)
    return SHRINKING * int(missing.sum())


def _decoded_over(data: bytes, level: int) -> npt.NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(data))
    picture.draft(None, (picture.width // SHRINKING, picture.height // SHRINKING))
    ground = Image.new("L", picture.size, level)
    ground = Image.merge(picture.mode, [ground] * len(picture.getbands()))
    picture.im = ground.im  # which it draws into
    with contextlib.suppress(OSError):
        picture.load()
    return np.asarray(ground)
