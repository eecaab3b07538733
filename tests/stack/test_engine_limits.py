"""The engine behind a real Triton: exact capacity, refusals at once, and edits spread over instances."""

from __future__ import annotations

import concurrent.futures
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.kit.servers import PROJECT, Server, serve
from tests.kit.tensors import MODEL, inputs


@dataclass
class Sent:
    """One inference call: its error or its result, and when it came."""

    answered_at: float
    error: str | None
    result: Any = None


def infer(server: Server, **tensors: Any) -> Sent:
    client = tritonclient.http.InferenceServerClient(server.triton_http, network_timeout=120.0)
    try:
        result, error = client.infer(MODEL, inputs(tritonclient.http, **tensors)), None
    except InferenceServerException as raised:
        result, error = None, raised.message()
    finally:
        client.close()
    return Sent(time.monotonic(), error, result)


def at_once(calls: list[Callable[[], Sent]]) -> list[Sent]:
    together = threading.Barrier(len(calls))

    def start(call: Callable[[], Sent]) -> Sent:
        together.wait()
        return call()

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(start, call) for call in calls]]


@pytest.fixture(scope="module")
def small(checkpoint: Callable[[str], Path]) -> Iterator[Server]:
    """Eight jobs at most, one row a forward."""
    with serve(checkpoint("plus"), MAX_JOBS="8", MAX_BATCH_TOKENS="1", REFERENCE_AREA="4096") as server:
        yield server


def test_of_twenty_edits_sent_at_once_eight_are_taken_and_twelve_refused_at_once(
    small: Server, photo: Callable[[str], bytes]
) -> None:
    image = photo("cat")
    common: dict[str, Any] = {"image": [image], "prompt": [b"blue"], "size": [384, 384], "seed": [1]}
    stopped = infer(small, **common, num_inference_steps=[20], stop_step=[19]).result.as_numpy("latents")

    def new(seed: int) -> Callable[[], Sent]:
        return lambda: infer(small, **{**common, "seed": [seed]}, num_inference_steps=[20])

    def continued() -> Sent:
        return infer(small, **common, num_inference_steps=[20], start_step=[19], latents=stopped)

    *answers, rest = at_once([*[new(seed) for seed in range(20)], lambda: _after(0.3, continued)])
    refused = [answer for answer in answers if answer.error]
    assert len(answers) - len(refused) == 8
    assert len(refused) == 12
    assert all("queue_full: 8 edits are waiting or running" in (answer.error or "") for answer in refused)
    first = min(answer.answered_at for answer in answers if not answer.error)
    assert max(answer.answered_at for answer in refused) < first, "a refusal waited until an edit had ended"
    assert rest.error is None, "a continued edit is always taken"
    assert rest.result.as_numpy("image").shape == (1, 384, 384, 3)


def _after(seconds: float, call: Callable[[], Sent]) -> Sent:
    time.sleep(seconds)
    return call()


@pytest.fixture(scope="module")
def two_instances(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("two") / "model_repository"
    shutil.copytree(PROJECT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__"))
    config = repository / "qwen_image_edit" / "configs" / "cpu.pbtxt"
    config.write_text(config.read_text().replace("count: 1, kind: KIND_CPU", "count: 2, kind: KIND_CPU"))
    with serve(checkpoint("plus"), MODEL_REPOSITORY=str(repository), REFERENCE_AREA="4096") as server:
        yield server


def steps_by_instance(server: Server) -> dict[str, int]:
    text = requests.get(server.triton_metrics, timeout=10).text
    return {
        instance: int(count)
        for instance, count in re.findall(r'^qwen_edit_steps_total\{engine="(\w+)"\} (\d+)', text, re.MULTILINE)
    }


def test_two_simultaneous_edits_run_on_two_instances(two_instances: Server, photo: Callable[[str], bytes]) -> None:
    def one() -> Sent:
        return infer(two_instances, image=[photo("cat")], prompt=[b"x"], size=[128, 128], num_inference_steps=[10])

    for _ in range(12):
        before = steps_by_instance(two_instances)
        assert all(answer.error is None for answer in at_once([one, one]))
        after = steps_by_instance(two_instances)
        assert {name: after[name] - before[name] for name in after} == dict.fromkeys(after, 10)
        assert len(after) == 2


def test_eight_edits_of_one_request_split_no_worse_than_five_to_three(
    two_instances: Server, photo: Callable[[str], bytes]
) -> None:
    before = steps_by_instance(two_instances)
    answer = requests.post(
        f"{two_instances.url}/v1/images/edits",
        files={"image": photo("cat")},
        data={"prompt": "x", "n": "8", "size": "128x128", "steps": "10"},
        timeout=120,
    )
    assert len(answer.json()["data"]) == 8
    after = steps_by_instance(two_instances)
    assert max(after[name] - before[name] for name in after) <= 50
