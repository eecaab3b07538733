"""Two supervised Tritons behind HAProxy, with the configuration that is shipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.kit.answers import pictures, same
from tests.kit.servers import Server, answers_200
from tests.kit.stacks import Balanced, balanced, worker

pytestmark = pytest.mark.faults

Photo = Callable[[str], bytes]
STEPS = "qwen_edit_steps_total"


@pytest.fixture(scope="module")
def two(sensitive: Callable[[str], Path], program: Callable[[str], str]) -> Iterator[Balanced]:
    program("haproxy")
    with balanced(sensitive("plus"), DEFAULT_STEPS="2", REFERENCE_AREA="4096") as stack:
        yield stack


def edit(two: Balanced, picture: bytes, seed: int, **fields: str) -> requests.Response:
    data = {"prompt": "x", "size": "192x192", "seed": str(seed), "num_inference_steps": "40", **fields}
    return requests.post(f"{two.shim.url}/v1/images/edits", data=data, files={"image": picture}, timeout=120)


def test_edits_are_spread_and_the_segments_of_one_stay_together(two: Balanced, photo: Photo) -> None:
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda seed: edit(two, photo("cat"), seed), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    made = [triton.metric(STEPS) for triton in two.tritons]
    assert sum(made) == 8 * 40
    assert all(steps % 40 == 0 and steps >= 80 for steps in made), "segments of one edit went to both"


def test_no_client_sees_that_one_of_two_is_killed_under_load(two: Balanced, photo: Photo) -> None:
    expected = [pictures(edit(two, photo("cat"), seed).json()) for seed in range(4)]
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda number: edit(two, photo("cat"), number % 4), range(16))
        for triton in two.tritons:
            time.sleep(0.5)
            kill_and_wait(triton)
        for number, answer in enumerate(answers):
            assert answer.status_code == 200, f"{answer.text[:300]}\n{two.shim.log}"
            assert same(pictures(answer.json()), expected[number % 4])


def kill_and_wait(triton: Server) -> None:
    worker(triton).kill()
    triton.wait_for(lambda: not answers_200(triton.healthz), seconds=5)
    triton.wait_for(lambda: answers_200(triton.healthz), seconds=60)
    time.sleep(1.0)  # until HAProxy has seen it


def test_with_neither_there_it_is_not_ready(two: Balanced) -> None:
    for triton in two.tritons:
        worker(triton).kill()
    two.shim.wait_for(lambda: not answers_200(f"{two.shim.url}/ready"), seconds=5)
    assert requests.get(f"{two.haproxy.url}/healthz", timeout=5).status_code == 503
    two.shim.wait_for(lambda: answers_200(f"{two.shim.url}/ready"), seconds=60)
