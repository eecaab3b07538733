"""Into how many layers a picture is taken apart, and at which resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen_edit.errors import BadRequest, shown

RESOLUTIONS = (640, 1024)  # the side of a square picture, in pixels


@dataclass(frozen=True)
class Layering:
    layers: int = 4
    resolution: int = RESOLUTIONS[0]


def layering_of(
    layers: object, resolution: object, allowed: tuple[int, int] | None, values: Mapping[str, Any]
) -> Layering | None:
    """None where the checkpoint makes no layers; raises BadRequest.

    `layers` and `resolution` are a request's, None where it names none, and `values` its tensors.
    """
    if allowed is None:
        for name, value in (("layers", layers), ("resolution", resolution)):
            if value is not None:
                raise BadRequest(
                    name, f"{shown(value)}: this checkpoint edits pictures and makes no layers: leave it out"
                )
        return None
    least, most = allowed
    if layers is not None and not (_is_whole(layers) and least <= int(str(layers)) <= most):
        raise BadRequest("layers", f"{shown(layers)}: a whole number from {least} to {most} is allowed")
    if resolution is not None and not (_is_whole(resolution) and resolution in RESOLUTIONS):
        raise BadRequest("resolution", f"{shown(resolution)}: {' or '.join(map(str, RESOLUTIONS))} is allowed")
    if "mask" in values:
        raise BadRequest("mask", "a picture is taken apart as a whole: this checkpoint takes no mask")
    if "size" in values and any(values["size"]):
        width, height = values["size"]
        raise BadRequest("size", f"{width}x{height}: layers have the picture's shape; 0 0 for auto is allowed")
    given = {"layers": layers, "resolution": resolution}
    return Layering(**{name: int(str(value)) for name, value in given.items() if value is not None})


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
