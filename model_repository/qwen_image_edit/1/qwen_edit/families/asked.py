"""The size that a request asks for."""

from __future__ import annotations

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import SOURCE, Size
from qwen_edit.settings import MIN_SIDE, Limits

MAX_ASPECT = 8  # longer side over shorter side


def size_asked_for(width: int, height: int, limits: Limits) -> Size | None:
    """None for 0 0, which leaves the choice to the model; raises BadRequest."""
    if (width, height) == (0, 0):
        return None
    if (width, height) == SOURCE:
        return SOURCE
    given = f"{width}x{height}"
    if not (MIN_SIDE <= width <= limits.side and MIN_SIDE <= height <= limits.side):
        raise BadRequest(
            "size",
            f"{given}: {MIN_SIDE} to {limits.side} pixels a side are allowed, 0 0 for auto, or -1 -1 for the source's",
        )
    if width * height > limits.pixels:
        raise BadRequest("size", f"{given} is {width * height} pixels: at most {limits.pixels} are allowed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadRequest("size", f"{given}: aspect ratios from 1:{MAX_ASPECT} to {MAX_ASPECT}:1 are allowed")
    return width, height
