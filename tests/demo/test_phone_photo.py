"""The README's first minute, with what a new user has at hand: a photograph from a phone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.kit.documents import FIRST_EDIT, README, blocks, run
from tests.kit.phone_photos import in_p3, phone_photo, upright_photo
from tests.kit.seeing import Picture, psnr
from tests.kit.servers import Server

# What a user changes in the command, to see the photograph as it is.
CHANGES = {"tests/data/astronaut.jpg": "photo.jpg", "make it grayscale": "keep it as it is", " -F size=256x256": ""}


def test_a_phones_photo_comes_out_upright_in_its_colours_and_its_shape(
    demo: Server, photo: Callable[[str], bytes], tmp_path: Path
) -> None:
    upright = upright_photo(photo("coffee"))
    (tmp_path / "photo.jpg").write_bytes(phone_photo(upright))
    command = blocks(README, "bash")[FIRST_EDIT]
    for given, changed in CHANGES.items():
        assert given in command
        command = command.replace(given, changed)
    assert not run(demo, tmp_path, command)
    with Image.open(tmp_path / "edited.png") as opened:
        size, edited = opened.size, np.asarray(opened)
    assert abs(size[0] / size[1] / (3 / 4) - 1) <= 0.005

    def seen(picture: Image.Image) -> Picture:
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))

    likeness = psnr(seen(upright), edited)
    assert likeness >= 30
    assert psnr(seen(in_p3(upright)), edited) <= likeness - 3, "its numbers taken for sRGB"
