"""A shim and a model of different releases: an update of several machines goes from one to the other."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.datastructures import UploadFile

from shim.errors import GenerationError
from shim.reading.edit import edit_of
from shim.running.kserve import HEADER_LENGTH, Body, Tensor, byte_strings, numbers
from shim.running.triton import MODEL, refusal
from shim.settings import Settings
from tests.kit.answers import pictures, same
from tests.kit.servers import NO_DRAIN, PROJECT, Server, environment, free_ports, run, serve_shim
from tests.kit.stacks import supervise

UPLOAD = UploadFile(io.BytesIO(b"x"), size=1, filename="a.png")
PREVIOUS = "dea197eebc53"  # 2.0.0
IN_SEGMENTS = {"SEGMENT_STEPS": "5"}


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the release before this one."""
    archived = subprocess.run(["git", "archive", PREVIOUS], cwd=PROJECT, capture_output=True)
    if archived.returncode:
        pytest.skip(f"a copy without its history, or a shallow one: commit {PREVIOUS} is not in it")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def shim_of_the_previous(previous: Path, alone: Server) -> Iterator[Server]:
    (port,) = free_ports(1)
    at = {"TRITON_URL": f"http://{alone.triton_http}", "HEALTH_URL": alone.healthz, "PORT": str(port)}
    env = environment(**at, **NO_DRAIN, **IN_SEGMENTS) | {"PYTHONPATH": str(previous)}
    with run(["sh", "-c", 'cd "$1" && exec "$0" -m shim', sys.executable, str(previous)], env, port) as shim:
        shim.wait_ready()
        yield shim


def edited_in_segments(shim: Server, picture: bytes) -> Any:
    fields = {"prompt": "x", "size": "96x96", "seed": "1", "num_inference_steps": "12"}
    answer = requests.post(f"{shim.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=60)
    assert answer.status_code == 200, f"{answer.text[:300]}\n{shim.log}"
    assert "shim_segments_total 3.0\n" in requests.get(f"{shim.url}/metrics", timeout=5).text
    return pictures(answer.json())


def test_each_edits_in_segments_with_the_other_of_the_release_before(
    previous: Path,
    shim_of_the_previous: Server,
    alone: Server,
    sensitive: Callable[[str], Path],
    photo: Callable[[str], bytes],
) -> None:
    old_model = {"MODEL_REPOSITORY": str(previous / "model_repository"), "REFERENCE_AREA": "4096"}
    with serve_shim(f"http://{alone.triton_http}", **IN_SEGMENTS) as today:
        expected = edited_in_segments(today, photo("cat"))
    assert same(edited_in_segments(shim_of_the_previous, photo("cat")), expected)
    with (
        supervise(sensitive("plus"), **old_model) as triton,
        serve_shim(f"http://{triton.triton_http}", **IN_SEGMENTS) as shim,
    ):
        assert same(edited_in_segments(shim, photo("cat")), expected)


@pytest.mark.parametrize(
    "strange",
    [numbers("of_another_release", "FP64", 1.0), numbers("seed", "INT32", 1), numbers("size", "INT32", 1, 2, 3)],
    ids=["unknown", "other type", "other shape"],
)
async def test_an_input_of_another_release_is_final(stack: Server, strange: Tensor) -> None:
    body = Body([byte_strings("image", b"x"), byte_strings("prompt", b"x"), strange], "e.0")
    content = b"".join([bytes(chunk) async for chunk in body.chunks()])
    url = f"http://{stack.triton_http}/v2/models/{MODEL}/infer"
    said: Any = requests.post(url, content, headers={HEADER_LENGTH: str(len(body.header))}, timeout=30)
    (job,) = edit_of([("prompt", "x"), ("image", UPLOAD)], "openai", Settings()).jobs()
    assert isinstance(refusal(said.status_code, said.content, job), GenerationError)
