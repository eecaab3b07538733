"""A Triton, or its worker, that dies in the middle of an edit: it comes back, and the edit goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.kit.servers import Server, answers_200, serve
from tests.kit.stacks import tritonserver, worker

Photo = Callable[[str], bytes]
STEPS = 100
SEGMENT_STEPS = 10
COUNTER = "qwen_edit_steps_total"
EDIT = {"prompt": "make the sky green", "size": "384x384", "seed": "3", "num_inference_steps": str(STEPS)}
SMALLER: dict[str, Any] = {"size": "224x224"}


@pytest.fixture(scope="module")
def mortal(sensitive: Callable[[str], Path]) -> Iterator[Server]:
    with serve(sensitive("plus"), DEFAULT_STEPS="2", REFERENCE_AREA="4096") as server:
        yield server


def edit(shim: Server, photo: bytes, **fields: str) -> requests.Response:
    return requests.post(f"{shim.url}/v1/images/edits", data=EDIT | fields, files={"image": photo}, timeout=120)


def encoded(answer: requests.Response) -> list[str]:
    return [item["b64_json"] for item in answer.json()["data"]]


@pytest.mark.parametrize("victim", [tritonserver, worker], ids=["tritonserver", "worker"])
def test_an_edit_outlives_its_triton(
    victim: Callable[[Server], psutil.Process], stack: Server, mortal: Server, photo: Photo
) -> None:
    outlives(mortal, victim, edit(stack, photo("cat")), photo("cat"))


def test_an_edit_that_skips_steps_outlives_its_worker_with_the_same_picture(
    stack: Server, mortal: Server, photo: Photo
) -> None:
    steps: dict[str, Any] = {"num_inference_steps": "60", "cache": "mild"}
    outlives(mortal, worker, edit(stack, photo("cat"), **steps), photo("cat"), forwards=38, **steps)


def test_an_edit_with_a_prefix_outlives_its_worker_which_took_that_with_it(stack21: Server, photo: Photo) -> None:
    outlives(stack21, worker, edit(stack21, photo("cat"), **SMALLER), photo("cat"), **SMALLER)
    assert stack21.metric("qwen_edit_prefix_encodes_total") == 1, "by the new worker, once for all segments left"


def test_a_picture_is_taken_apart_into_the_same_layers_by_the_next_worker(layered: Server, photo: Photo) -> None:
    fields: dict[str, Any] = {"size": "auto", "layers": "2", "num_inference_steps": "90", "true_cfg_scale": "1"}
    undisturbed = edit(layered, photo("cat"), **fields)
    outlives(layered, worker, undisturbed, photo("cat"), forwards=90, segment_steps=3, **fields)


def outlives(
    mortal: Server,
    victim: Callable[[Server], psutil.Process],
    undisturbed: requests.Response,
    photo: bytes,
    *,
    forwards: int = STEPS,
    segment_steps: int = SEGMENT_STEPS,
    **fields: str,
) -> None:
    """`forwards`: of the whole edit, at most one for each of its steps."""
    expected = encoded(undisturbed)
    with ThreadPoolExecutor() as pool:
        started = mortal.metric(COUNTER)
        dying = victim(mortal)
        editing = pool.submit(edit, mortal, photo, **fields)
        mortal.wait_for(lambda: mortal.metric(COUNTER) >= started + 25)
        if victim is worker:
            dying.suspend()  # else it makes steps between the count and its end
        before = mortal.metric(COUNTER) - started
        dying.kill()
        assert before < forwards
        response = editing.result()
    assert response.status_code == 200, f"{response.text[:500]}\n{mortal.log}"
    assert encoded(response) == expected
    after = mortal.metric(COUNTER)  # of the new server
    assert forwards - segment_steps < before + after <= forwards + segment_steps
    # The answer that tells of the last step counted may have died on its way.
    assert after <= forwards - (before - 1) // segment_steps * segment_steps
    assert "Triton broke off after step" in mortal.log
    assert answers_200(mortal.healthz)
