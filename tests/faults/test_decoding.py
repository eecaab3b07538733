"""Decoders under a real Triton: whose they are, when they end, and that their work is nobody else's burden."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import tritonclient.http
from PIL import Image
from qwen_edit.errors import BadRequest
from qwen_edit.pictures.decoders import Decoders

from standalone.observer import workers
from tests.kit.hostile_pictures import EXPENSIVE, jpeg_of_seconds, saved
from tests.kit.servers import Server, serve
from tests.kit.stacks import supervise, tritonserver, worker
from tests.kit.tensors import MODEL, inputs

pytestmark = pytest.mark.faults

DECODER = ["-m", "qwen_edit.pictures.decoder"]
REQUESTS, PICTURES = 3, 16
SIDE = 5_000  # of a black WebP of 45 KB, some 0.6 s of CPU time
DECODED = 8  # of them, while the bystander's steps are counted
SHARE = 0.7
STEPS = 100

CPU_SECONDS = 2.0
MEMORY = 500 * 2**20
FULL = os.environ.get("FAULTS") == "full"
KINDS = list(EXPENSIVE) if FULL else list(EXPENSIVE)[:4]

Photo = Callable[[str], bytes]


@pytest.fixture(scope="module")
def server(checkpoint: Callable[[str], Path]) -> Iterator[Server]:
    with serve(checkpoint("plus"), REFERENCE_AREA="4096", DEFAULT_STEPS="2", MAX_INPUT_PIXELS="1000000000") as running:
        yield running


def decoders(server: Server) -> list[psutil.Process]:
    return [child for child in worker(server).children() if child.cmdline()[-2:] == DECODER]


def black_webps() -> list[tuple[str, tuple[str, bytes]]]:
    picture = saved(Image.new("RGB", (SIDE, SIDE)), "WEBP", lossless=True)
    return [("images", ("black.webp", picture))] * PICTURES


def post(server: Server, files: Any, **fields: str) -> requests.Response:
    data = {"prompt": "blue", "size": "64x64", "num_inference_steps": "2", **fields}
    return requests.post(f"{server.url}/v1/images/edits", data=data, files=files, timeout=120)


class Bystander:
    """One edit, a step a call, its latents brought back each time."""

    def __init__(self, server: Server, picture: bytes) -> None:
        self._edit = {"image": picture, "prompt": b"red", "size": [512, 512], "seed": 1, "num_inference_steps": STEPS}
        self._edit["arrival"] = time.time()
        self._client = tritonclient.http.InferenceServerClient(server.triton_http, network_timeout=60.0)
        self._latents = self._step(stop_step=1)

    def steps_while(self, condition: Callable[[], bool]) -> int:
        made = 0
        while condition():
            self._step(start_step=1, stop_step=2, latents=self._latents)
            made += 1
        return made

    def _step(self, **tensors: Any) -> Any:
        return self._client.infer(MODEL, inputs(tritonclient.http, **self._edit, **tensors)).as_numpy("latents")


@pytest.fixture(scope="module")
def pair() -> Iterator[Decoders]:
    running = Decoders(2**25, 1536**2)
    yield running
    running.close()


def cost(decoder: psutil.Process) -> tuple[float, int]:
    """CPU seconds, and bytes at the peak."""
    times = decoder.cpu_times()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{decoder.pid}/status").read_text())
    return times.user + times.system, 1024 * int(peak)


@pytest.mark.parametrize("kind", KINDS)
def test_no_small_file_costs_more_than_its_limits(pair: Decoders, kind: str) -> None:
    data = EXPENSIVE[kind]()
    assert len(data) < 2**20
    before = {decoder: cost(decoder) for decoder in psutil.Process().children()}
    with contextlib.suppress(BadRequest):
        pair.picture(data, lambda own: [(1024, 1024), (384, 384)])
    for decoder in psutil.Process().children():  # one that was ended took too long, as it is sure to have been told
        seconds, peak = cost(decoder)
        assert seconds - before.get(decoder, (0, 0))[0] < CPU_SECONDS + 0.5  # of the conversation
        assert peak < MEMORY + 2**26


def test_two_decoders_are_the_workers_children_and_no_workers(server: Server) -> None:
    assert len(decoders(server)) == 2
    assert [process.pid for process in workers(tritonserver(server).pid)] == [worker(server).pid]


def test_a_picture_that_takes_too_long_is_a_400_and_only_its_decoder_is_replaced(server: Server, photo: Photo) -> None:
    (before, now) = worker(server).pid, set(decoders(server))
    answer = post(server, {"image": jpeg_of_seconds()})
    assert answer.status_code == 400
    assert "takes more than 2 s of CPU time" in answer.text
    assert all(post(server, {"image": photo("cat")}).status_code == 200 for _ in range(3))
    assert worker(server).pid == before
    assert len(set(decoders(server)) & now) >= 1


@pytest.mark.skipif(not FULL, reason="both figures are of a machine that nobody else uses")
def test_pictures_that_cost_much_leave_a_bystander_most_of_its_steps(server: Server, photo: Photo) -> None:
    bystander = Bystander(server, photo("cat"))
    before = server.metric("qwen_edit_pictures_total")

    def undecoded() -> bool:
        return server.metric("qwen_edit_pictures_total") < before + DECODED

    attackers = [threading.Thread(target=post, args=(server, black_webps())) for _ in range(REQUESTS)]
    for attacker in attackers:
        attacker.start()
    server.wait_for(lambda: server.metric("qwen_edit_jobs") > 2)
    started = time.monotonic()
    disturbed = bystander.steps_while(undecoded)
    seconds = time.monotonic() - started
    for attacker in attackers:
        attacker.join()
    until = time.monotonic() + seconds
    undisturbed = bystander.steps_while(lambda: not undecoded() and time.monotonic() < until)
    assert disturbed >= SHARE * undisturbed, (disturbed, undisturbed)


def test_decoders_end_with_their_worker(checkpoint: Callable[[str], Path]) -> None:
    with supervise(checkpoint("plus"), REFERENCE_AREA="4096") as alone:
        killed, children = worker(alone), decoders(alone)
        assert len(children) == 2
        killed.kill()
        _, alive = psutil.wait_procs(children, timeout=1)
        assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
