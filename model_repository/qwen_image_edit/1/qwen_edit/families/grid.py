"""The grid of sizes that can be rendered, and which of it stands for a size that is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

from qwen_edit.families.family import Size

MOST_OFF = 0.02  # of the aspect ratio: what is rendered against what is answered
SHRUNK = 0.02  # of a side: so much smaller may be rendered than is answered
AREA_OFF = 1.3  # times more or less than the area a checkpoint was made for
AUTO_OFF = 0.005  # of the aspect ratio: what is answered against its picture


def aspect_error(size: Size, other: Size) -> float:
    """By how much of it the wider aspect ratio differs from the other."""
    one, two = size[0] * other[1], other[0] * size[1]
    return max(one, two) / min(one, two) - 1


def grid_size(size: Size, cell: int) -> Size:
    """The smallest of multiples of `cell` that stands for `size`: hardly smaller, and of nearly its shape."""
    return _nearest(size, _from(size, cell), size[0] * size[1])


def grid_size_at(size: Size, area: int, cell: int) -> Size:
    """The shape of `size` in multiples of `cell`, at about `area` pixels."""
    longest = int(math.sqrt(area * AREA_OFF * max(size) / min(size)) // cell + 1)
    candidates = (
        (columns * cell, rows * cell)
        for columns, rows in product(range(1, longest + 1), repeat=2)
        if area / AREA_OFF <= columns * rows * cell**2 <= area * AREA_OFF
    )
    return _nearest(size, candidates, area)


def within(size: Size, longest: int, pixels: int, shortest: int) -> Size:
    """The largest of its shape, up to itself, within the limits; larger where a side would be under `shortest`."""
    scale = min(1.0, longest / max(size), math.sqrt(pixels / (size[0] * size[1])))
    scale = max(scale, shortest / min(size))
    width, height = (max(shortest, math.floor(side * scale + 1e-6)) for side in size)
    return width, height


def shaped(size: Size, box: Size) -> Size:
    """The largest of the shape of `size` in the box: one side is the box's."""
    scale = min(box[0] / size[0], box[1] / size[1])
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def _from(size: Size, cell: int) -> Iterator[Size]:
    """From hardly smaller than `size` on: for every width the height that comes closest to its shape."""
    width, height = size
    fewest = math.ceil(width * (1 - SHRUNK) / cell)
    # At 50 cells a side, one of two neighbours is within 1 % of any shape.
    for columns in range(fewest, max(fewest + 2, 50 * max(1, math.ceil(width / height))) + 1):
        rows = max(1, round(columns * height / width))
        if rows * cell >= height * (1 - SHRUNK):
            yield columns * cell, rows * cell


def _nearest(size: Size, candidates: Iterator[Size], area: int) -> Size:
    """Of nearly its shape the one whose area is nearest; where none is, that of the nearest shape."""

    def key(each: Size) -> tuple[float, float]:
        pixels = each[0] * each[1]
        return max(MOST_OFF, aspect_error(each, size)), max(pixels, area) / min(pixels, area)

    return min(candidates, key=key)
