"""Every process of a whole server is killed, and is stopped, in the middle of edits.

FAULTS=full pytest tests/faults/test_every_process.py      # six minutes
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from standalone.observer import WORKER
from tests.kit.answers import pictures, same
from tests.kit.hostile_pictures import png, png_chunk
from tests.kit.servers import Server, answers_200
from tests.kit.stacks import serve_two

pytestmark = pytest.mark.faults

PARTS = {
    "worker": WORKER,
    "tritonserver": "/tritonserver ",
    "decoder": "-m qwen_edit.pictures.decoder",
    "haproxy": "haproxy -W",
    "reaper": "-m standalone.reaper",
    "shim": "-m shim",
}
EDITS = 4
RECOVERY_SECONDS = 120.0  # the longest is a decoder's, which is given up after up to 50 s
FULL = os.environ.get("FAULTS") == "full"


@pytest.fixture(scope="module")
def two(sensitive: Callable[[str], Path], program: Callable[[str], str]) -> Iterator[Server]:
    program("haproxy")
    settings = {"MAX_FAILURES": "100", "WORKER_STALL_SECONDS": "5", "DEFAULT_STEPS": "2", "REFERENCE_AREA": "4096"}
    with serve_two(sensitive("plus"), **settings) as server:
        yield server


def processes(server: Server, part: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = f"{' '.join(process.cmdline())} "
            if process.status() != psutil.STATUS_ZOMBIE and PARTS[part] in command:
                found.append(process)
    return found


def send(victims: list[psutil.Process], number: signal.Signals) -> None:
    for victim in victims:
        victim.send_signal(number)


def has_ended(process: psutil.Process) -> bool:
    """Zombies have."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def edit(server: Server, picture: bytes, seed: int) -> requests.Response:
    fields = {"prompt": "x", "size": "192x192", "seed": str(seed), "num_inference_steps": "60"}
    return requests.post(f"{server.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=240)


@pytest.mark.skipif(not FULL, reason="each part has tests of its own")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("part", PARTS)
def test_edits_under_way_are_answered_and_the_process_is_replaced(
    two: Server, part: str, number: signal.Signals
) -> None:
    second = Server(two.process, two.log_path, 0, triton_metrics_port=two.triton_metrics_port + 10)
    two.wait_for(lambda: all(map(answers_200, (two.healthz, f"http://127.0.0.1:{two.supervisor_port + 10}/healthz"))))
    picture = png(png_chunk(b"teSt", f"{part} {number}".encode()))  # that nobody has seen
    parts = {name: len(processes(two, name)) for name in PARTS}
    # Of HAProxy the one that serves, not its master; of decoders all, as any may get the picture.
    victims = processes(two, part) if part == "decoder" else processes(two, part)[-1:]
    with ThreadPoolExecutor() as pool:
        if part == "decoder":  # its work is done in no time
            send(victims, number)
        under_way = [pool.submit(edit, two, picture, seed) for seed in range(EDITS)]
        if part != "decoder":
            two.wait_for(lambda: two.metric("qwen_edit_jobs") + second.metric("qwen_edit_jobs") == EDITS)
            send(victims, number)
        answers = [each.result() for each in under_way if part != "shim" or not each.exception()]
    if (part, number) == ("reaper", signal.SIGSTOP):
        send(victims, signal.SIGCONT)  # nobody needs it before the end, which does not wait for it
    else:
        two.wait_for(lambda: any(map(has_ended, victims)), RECOVERY_SECONDS)
    two.wait_ready()
    assert edit(two, picture, 0).status_code == 200
    send([victim for victim in victims if not has_ended(victim)], signal.SIGKILL)  # decoders that had no picture
    two.wait_for(lambda: set(processes(two, part)).isdisjoint(victims))
    if part == "decoder":
        assert edit(two, png(png_chunk(b"teSt", b"another")), 0).status_code == 200
    else:
        two.wait_for(lambda: {name: len(processes(two, name)) for name in PARTS} == parts, RECOVERY_SECONDS)
    assert part == "shim" or len(answers) == EDITS
    for seed, answer in enumerate(answers):
        assert answer.status_code == 200, f"{answer.text[:300]}\n{two.log}"
        assert same(pictures(answer.json()), pictures(edit(two, picture, seed).json()))
