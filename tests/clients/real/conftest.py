"""A tee in front of the server, small pictures to send through it, and a client's own process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.clients.conftest import Service
from tests.conftest import DATA
from tests.kit.servers import environment
from tests.kit.wire import Tee, tee

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def front(service: Service) -> Iterator[Tee]:
    with tee(service.url.removeprefix("http://")) as front:
        yield front


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photo.jpg of 64×48 pixels, and mask.png, whose upper half is transparent: recordings stay small."""
    folder = tmp_path_factory.mktemp("small")
    with Image.open(DATA / "cat.jpg") as cat:
        cat.resize((64, 48)).save(folder / "photo.jpg", quality=60)
    mask = Image.new("RGBA", (64, 48), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 64, 24))
    mask.save(folder / "mask.png")
    return folder


def outcomes_of(*command: str | Path, **variables: str) -> Outcomes:
    """What a script printed at last: one JSON object, case → what came of it."""
    env = environment(PYTHONPATH="") | variables
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: Outcomes = json.loads(done.stdout.splitlines()[-1])
    return loaded
