"""Into how many layers a picture is taken apart, and at which resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen_edit.errors import BadRequest, shown

RESOLUTIONS = (640, 1024)  # the side of a square picture, in pixels
# Parameters of a request. Those after the first two say what else was asked of the server in front of the model.
ASKED = ("layers", "resolution", "n", "most_layers", "output_format", "opaque", "usual_size")


@dataclass(frozen=True)
class Layering:
    layers: int = 4
    resolution: int = RESOLUTIONS[0]


def layering_of(
    asked: Mapping[str, object], allowed: tuple[int, int] | None, values: Mapping[str, Any]
) -> Layering | None:
    """None where the checkpoint makes no layers; raises BadRequest.

    `allowed`: least and most layers of the checkpoint; `values`: the request's tensors.
    """
    if allowed is None:
        for name in ASKED[:2]:
            if name in asked:
                unknown = "this checkpoint edits pictures and makes no layers: leave it out"
                raise BadRequest(name, f"{shown(asked[name])}: {unknown}")
        return None
    _check_rest(asked, values)
    usual, (least, most) = Layering(), allowed
    layers, resolution = (_whole(asked, name, getattr(usual, name)) for name in ASKED[:2])
    most = min(most, _whole(asked, "most_layers", most) or 0)
    if most < least:
        raise BadRequest("layers", f"this request may have {most} outputs of each picture: at least {least} are needed")
    if layers is None or not least <= layers <= most:
        raise BadRequest(
            "layers", f"{shown(asked.get('layers', usual.layers))}: a whole number from {least} to {most} is allowed"
        )
    if resolution not in RESOLUTIONS:
        raise BadRequest("resolution", f"{shown(asked['resolution'])}: {' or '.join(map(str, RESOLUTIONS))} is allowed")
    return Layering(layers, resolution)


def _check_rest(asked: Mapping[str, object], values: Mapping[str, Any]) -> None:
    """Raises BadRequest for what does not go with layers."""
    if "mask" in values:
        raise BadRequest("mask", "a picture is taken apart as a whole: this checkpoint takes no mask")
    if "size" in values and any(values["size"]) and asked.get("usual_size") is not True:
        width, height = values["size"]
        raise BadRequest("size", f"{width}x{height}: layers have the picture's shape: auto is allowed, which is 0 0")
    if asked.get("n", 1) != 1:
        raise BadRequest("n", f"{shown(asked['n'])}: a picture is taken apart once: 1 is allowed")
    if asked.get("opaque"):
        raise BadRequest("background", "opaque: layers are transparent: auto or transparent is allowed")
    if asked.get("output_format", "png") not in ("png", "webp"):
        raise BadRequest(
            "output_format", f"{shown(asked['output_format'])}: layers are transparent: png or webp is allowed"
        )


def _whole(asked: Mapping[str, object], name: str, usual: int) -> int | None:
    """None for what is no whole number."""
    value = asked.get(name, usual)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
