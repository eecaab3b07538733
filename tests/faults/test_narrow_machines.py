"""A whole server where disk or shared memory are too small, and where uploads would be too much for its memory.

FAULTS=full pytest tests/faults/test_narrow_machines.py -s      # three minutes
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from shim.limits import BODIES_IN_FLIGHT
from tests.kit.hostile_pictures import png, png_chunk
from tests.kit.servers import NO_DRAIN, PORTS, Server, answers_200, environment, free_ports, run, serve
from tests.kit.stacks import processes, worker

FULL = os.environ.get("FAULTS") == "full"
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not FULL, reason="what each of these shortages does has tests of its own"),
]

Photo = Callable[[str], bytes]
MIB = 2**20
UNSHARE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
SHARED_MEMORY = 64  # MiB, as Docker and Kubernetes give
DISK = 16  # MiB
UPLOADS, UPLOAD_BYTES, UPLOAD_SHARE = 200, 20 * 10**6, 100 * 10**6  # MAX_BODY_BYTES' default
SETTINGS = {"REFERENCE_AREA": "4096", "DEFAULT_STEPS": "2"}


def has_namespaces() -> bool:
    """Whether a folder can be mounted for one process alone."""
    return bool(shutil.which("unshare")) and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode


needs_namespaces = pytest.mark.skipif(
    not (has_namespaces() or os.environ.get("CI")), reason="nothing can be mounted for one process"
)


@contextlib.contextmanager
def serve_with_mounted(folder: Path, size: int, checkpoint: Path, **settings: str) -> Iterator[Server]:
    """The whole server, for which `folder` is a memory of `size` MiB."""
    ports = free_ports(len(PORTS))
    at = {name: str(port) for name, port in zip(PORTS, ports, strict=True)}
    env = environment(QWEN_MODEL_DIR=str(checkpoint), **at, **NO_DRAIN, **SETTINGS, **settings)
    command = f'mount -t tmpfs -o size={size}m none {folder} && exec "$0" -m standalone'
    with run([*UNSHARE, command, sys.executable], env, *ports) as server:
        server.wait_ready()
        yield server


def edit(server: Server, picture: bytes) -> requests.Response:
    fields = {"prompt": "x", "size": "64x64", "seed": "1"}
    return requests.post(f"{server.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=240)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filling").open("wb", buffering=0) as filling:
        while True:
            filling.write(bytes(4096))


def padded(size: int) -> bytes:
    return png(png_chunk(b"teSt", bytes(size - len(png(png_chunk(b"teSt"))))))


@needs_namespaces
def test_on_a_full_disk_edits_are_made_and_a_worker_that_dies_there_is_replaced(
    checkpoint: Callable[[str], Path], photo: Photo, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with serve_with_mounted(disk, DISK, checkpoint("plus"), TMPDIR=str(disk)) as server:
        assert edit(server, padded(2 * MIB)).status_code == 200, "the shim spools there from here on"
        with ThreadPoolExecutor() as pool:
            steps = server.metric("qwen_edit_steps_total")
            fields = {"prompt": "x", "size": "256x256", "num_inference_steps": "100"}
            url, files = f"{server.url}/v1/images/edits", {"image": photo("cat")}
            under_way = pool.submit(requests.post, url, data=fields, files=files, timeout=120)
            server.wait_for(lambda: server.metric("qwen_edit_steps_total") > steps + 10)
            fill(Path(f"/proc/{server.process.pid}/root{disk}"))
            worker(server).kill()
            assert under_way.result().status_code == 200, server.log
        too_large = edit(server, padded(2 * DISK * MIB))
        assert (too_large.status_code, "retry-after" in too_large.headers) == (503, True)
        assert "Traceback" not in server.log


@needs_namespaces
def test_an_upload_that_shared_memory_is_too_small_for_fails_once_and_small_ones_pass(
    checkpoint: Callable[[str], Path], photo: Photo
) -> None:
    with serve_with_mounted(Path("/dev/shm"), SHARED_MEMORY, checkpoint("plus")) as server:
        assert f"/dev/shm has {SHARED_MEMORY * MIB} bytes" in server.log
        for _ in range(2):
            answer = edit(server, padded(90 * MIB))
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "GENERATION_ERROR")
            assert answer.headers["x-should-retry"] == "false"
            assert edit(server, photo("cat")).status_code == 200
        assert server.log.count("Triton failed twice in the same way after step 0") == 2
        assert answers_200(f"{server.url}/ready")


class Peaks:
    """The most bytes that each process of a server has held for itself, and of /dev/shm."""

    def __init__(self, server: Server) -> None:
        self.most: Counter[str] = Counter()
        self._processes = processes(server)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            for name, process in self._processes.items():
                memory = process.memory_info()
                self.most[name] = max(self.most[name], memory.rss - memory.shared)


def test_200_uploads_of_20_mb_at_once_stay_within_the_budgets(checkpoint: Callable[[str], Path], photo: Photo) -> None:
    upload = padded(UPLOAD_BYTES)
    with serve(checkpoint("plus"), **SETTINGS) as server:
        assert edit(server, photo("cat")).status_code == 200
        with Peaks(server) as peaks:
            time.sleep(1)
            rest = Counter(peaks.most)
            with ThreadPoolExecutor(UPLOADS) as pool:
                answers = list(pool.map(lambda _: edit(server, upload), range(UPLOADS)))
        statuses = Counter(answer.status_code for answer in answers)
        grown = {name: (peaks.most[name] - rest[name]) / MIB for name in rest}
        print(f"\n{UPLOADS} uploads of {UPLOAD_BYTES} bytes: {dict(statuses)}; grown by MiB: {grown}")
        assert statuses.keys() <= {200, 429, 503}, [answer.text for answer in answers if answer.status_code == 400][:1]
        assert statuses[200] > 0
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code != 200)
        budget = BODIES_IN_FLIGHT * UPLOAD_SHARE / MIB
        assert grown["shim"] < budget
        assert grown["tritonserver"] < 2 * budget
        assert grown["worker"] < 2 * budget
        assert edit(server, photo("cat")).status_code == 200
        assert worker(server).is_running()
