"""Two supervised Tritons behind HAProxy, with the configuration that is shipped."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import requests

from tests.kit.answers import pictures, same
from tests.kit.servers import Server, answers_200
from tests.kit.stacks import Balanced, balanced, worker

pytestmark = pytest.mark.faults

Photo = Callable[[str], bytes]
STEPS = "qwen_edit_steps_total"
LONG = 100  # steps: as many as the server takes, so that all are under way while one Triton is drained


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


def test_draining_one_of_two_and_then_the_only_one_sends_no_segment_again(two: Balanced, photo: Photo) -> None:
    """Leaves no Triton."""
    with ThreadPoolExecutor() as pool:
        undisturbed = pool.map(lambda seed: edit(two, photo("cat"), seed, num_inference_steps=str(LONG)), range(4))
        expected = [pictures(answer.json()) for answer in undisturbed]
    interrupted = interruptions(two)
    other = drained_under_load(two, two.tritons, photo, expected)
    assert other.status_code == 200
    assert same(pictures(other.json()), expected[0])
    assert interruptions(two) == interrupted
    assert two.tritons[0].process.wait(20) == 0
    two.haproxy.wait_for(lambda: "tritons/triton-1 is DOWN" in two.haproxy.log.rpartition("is stopping")[2], seconds=5)
    refused = drained_under_load(two, two.tritons[1:], photo, expected)
    assert refused.status_code == 503
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert interruptions(two) == interrupted


def drained_under_load(
    two: Balanced, living: list[Server], photo: Photo, expected: list[list[npt.NDArray[np.uint8]]]
) -> requests.Response:
    """Drains the first of those living, while they have edits that must all end well; returns a new edit's answer."""
    steps = {triton.supervisor_port: triton.metric(STEPS) for triton in living}
    before = sum(steps.values())
    leaving = two.tritons.index(living[0]) + 1
    with ThreadPoolExecutor() as pool:
        under_way = [pool.submit(edit, two, photo("cat"), seed, num_inference_steps=str(LONG)) for seed in range(4)]
        two.shim.wait_for(lambda: sum(jobs := jobs_of(living)) == 4 and all(jobs))
        living[0].process.send_signal(signal.SIGTERM)
        two.shim.wait_for(lambda: f"tritons/triton-{leaving} is stopping" in two.haproxy.log)
        new = pool.submit(edit, two, photo("cat"), 0, num_inference_steps=str(LONG))
        assert not any(each.done() for each in under_way), "the edits ended too early"

        def have_ended() -> bool:
            ended = all(each.done() for each in (new, *under_way))
            note_steps(living, steps)
            return ended

        two.shim.wait_for(have_ended)
    for each, undisturbed in zip(under_way, expected, strict=True):
        assert each.result().status_code == 200, f"{each.result().text[:300]}\n{two.shim.log}"
        assert same(pictures(each.result().json()), undisturbed)
    assert sum(steps.values()) - before == LONG * (5 if new.result().ok else 4)
    return new.result()


def jobs_of(tritons: list[Server]) -> list[float]:
    return [triton.metric("qwen_edit_jobs") for triton in tritons]


def note_steps(tritons: list[Server], steps: dict[int, float]) -> None:
    """Of those that have not ended yet; a drained one waits two seconds before it does."""
    for triton in tritons:
        with contextlib.suppress(OSError):
            steps[triton.supervisor_port] = triton.metric(STEPS)


def interruptions(two: Balanced) -> float:
    """Of segments that somebody had taken."""
    metrics = requests.get(f"{two.shim.url}/metrics", timeout=5).text
    (value,) = re.findall(r"^shim_segments_interrupted_total (\S+)$", metrics, re.MULTILINE)
    return float(value)
