"""What `make serve` runs when no checkpoint is named, and edits of the held-out photographs by it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import requests
from PIL import Image

from tests.kit.answers import pictures
from tests.kit.servers import Server, serve

Picture = npt.NDArray[np.uint8]
AREA = 160 * 160  # pixels; less than its own 256², for speed


class Edit(Protocol):
    """An edit through HTTP: the prompt, names of the reference photographs, further form fields → the picture."""

    def __call__(self, prompt: str, *photos: str, mask: bytes | None = None, **fields: Any) -> Picture: ...


@pytest.fixture(scope="session")
def demo() -> Iterator[Server]:
    with serve("", REFERENCE_AREA=str(AREA)) as server:
        yield server


@pytest.fixture(scope="session")
def edit(demo: Server, photo: Callable[[str], bytes]) -> Edit:
    made: dict[Any, Picture] = {}

    def edit(prompt: str, *photos: str, mask: bytes | None = None, **fields: Any) -> Picture:
        key = (prompt, photos, mask, tuple(fields.items()))
        if key not in made:
            parts = [("image", (f"{name}.jpg", photo(name))) for name in photos]
            parts += [("mask", ("mask.png", mask))] if mask else []
            data = {"prompt": prompt, "seed": 7, **fields}
            answer = requests.post(f"{demo.url}/v1/images/edits", data=data, files=parts, timeout=120)
            assert answer.status_code == 200, answer.text
            (made[key],) = pictures(answer.json())
        return made[key]

    return edit


@pytest.fixture(scope="session")
def original(photo: Callable[[str], bytes]) -> Callable[[str, Picture], Picture]:
    """The photograph at the size of an edited picture."""

    def original(name: str, edited: Picture) -> Picture:
        height, width, _ = edited.shape
        opened = Image.open(io.BytesIO(photo(name))).convert("RGB")
        return np.asarray(opened.resize((width, height), Image.Resampling.LANCZOS))

    return original
