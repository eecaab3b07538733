"""A shim and a model of different releases: an update of several machines goes from one to the other."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.datastructures import UploadFile

from shim.errors import GenerationError, InvalidInput, ShimError
from shim.reading.edit import edit_of
from shim.running.faults import Interrupted
from shim.running.kserve import HEADER_LENGTH, Body, Tensor, byte_strings, numbers
from shim.running.segments import Segment
from shim.running.standing import Standing
from shim.running.triton import MODEL, Triton, refusal
from shim.settings import Settings
from tests.kit.answers import pictures, same
from tests.kit.releases import PREVIOUS, previous
from tests.kit.servers import Server, serve_shim, serve_shim_of
from tests.kit.stacks import supervise

UPLOAD = UploadFile(io.BytesIO(b"x"), size=1, filename="a.png")
IN_SEGMENTS = {"SEGMENT_STEPS": "5"}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    release = previous(tmp_path_factory.mktemp("releases"))
    if release is None:
        pytest.skip(f"a copy without its history, or a shallow one: commit {PREVIOUS} is not in it")
    return release


def edited_in_segments(shim: Server, picture: bytes) -> Any:
    fields = {"prompt": "x", "size": "96x96", "seed": "1", "num_inference_steps": "12"}
    answer = requests.post(f"{shim.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=60)
    assert answer.status_code == 200, f"{answer.text[:300]}\n{shim.log}"
    assert "shim_segments_total 3.0\n" in requests.get(f"{shim.url}/metrics", timeout=5).text
    return pictures(answer.json())


def test_each_edits_in_segments_with_the_other_of_the_release_before(
    old: Path, alone: Server, sensitive: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    old_model = {"MODEL_REPOSITORY": str(old / "model_repository"), "REFERENCE_AREA": "4096"}
    url = f"http://{alone.triton_http}"
    with serve_shim(url, **IN_SEGMENTS) as today:
        expected = edited_in_segments(today, photo("cat"))
    with serve_shim_of(old, url, {"HEALTH_URL": alone.healthz, **IN_SEGMENTS}) as shim:
        assert same(edited_in_segments(shim, photo("cat")), expected)
    with (
        supervise(sensitive("plus"), **old_model) as triton,
        serve_shim(f"http://{triton.triton_http}", **IN_SEGMENTS) as shim,
    ):
        assert same(edited_in_segments(shim, photo("cat")), expected)
        assert isinstance(asyncio.run(refused(triton, named=photo("cat"))), InvalidInput)


async def refused(triton: Server, named: bytes) -> Exception:
    """What a call is answered that names its picture, as the later ones of an edit do."""
    upload = UploadFile(io.BytesIO(named), size=len(named), filename="a.jpg")
    (job,) = edit_of([("prompt", "x"), ("image", upload)], "openai", Settings()).jobs()
    segment = Segment(job, Standing(arrived=time.monotonic(), deadline=time.monotonic() + 60), 4, 1.0, named=True)
    model = Triton(f"http://{triton.triton_http}", triton.healthz, 2**20)
    try:
        await model.run(segment, "edit")
    except (ShimError, Interrupted) as error:
        return error
    finally:
        await model.close()
    raise AssertionError("taken without its picture")


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
