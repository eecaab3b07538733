"""A Triton that dies in the middle of an edit, and comes back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from servers import Server, environment, free_ports, serve_shim

from standalone import tritonserver
from standalone.processes import Group, kill_group, remove_shared_memory
from standalone.settings import Settings

Photo = Callable[[str], bytes]
STEPS = 100
SEGMENT_STEPS = 10
COUNTER = "qwen_edit_steps_total"
EDIT = {"prompt": "make the sky green", "size": "384x384", "seed": "3", "num_inference_steps": str(STEPS)}
PORTS = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")


class Mortal:
    """A tritonserver of its own that can be killed, and started again on the same ports."""

    def __init__(self, checkpoint: Path) -> None:
        self.ports = free_ports(4)
        at = {name: str(port) for name, port in zip(PORTS, self.ports, strict=True)}
        env = environment(QWEN_MODEL_DIR=str(checkpoint), DEFAULT_STEPS="2", REFERENCE_AREA="4096", **at)
        settings = Settings.from_environment(env)
        binary = tritonserver.find()
        self._shm_prefix = f"qwen_test_{os.getpid()}_{self.ports[0]}_"
        self._command = binary.command(settings, tritonserver.config_name(settings, 0), self._shm_prefix)
        self._environment = binary.environment(env, settings, str(checkpoint))
        self._group: Group | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    def start(self) -> None:
        self._group = Group("tritonserver", self._command, self._environment)

    def kill(self) -> None:
        if self._group is not None:
            kill_group(self._group.pgid)
            self._group.stop(0)
        remove_shared_memory(self._shm_prefix)


@pytest.fixture
def triton(sensitive: Callable[[str], Path]) -> Iterator[Mortal]:
    triton = Mortal(sensitive("plus"))
    triton.start()
    try:
        yield triton
    finally:
        triton.kill()


def edit(shim: Server, photo: bytes) -> requests.Response:
    return requests.post(f"{shim.url}/v1/images/edits", data=EDIT, files={"image": photo}, timeout=120)


def test_an_edit_outlives_its_triton(stack: Server, triton: Mortal, photo: Photo) -> None:
    expected = edit(stack, photo("cat")).json()["data"]
    with serve_shim(triton.url) as shim, ThreadPoolExecutor() as pool:
        shim.triton_metrics_port = triton.ports[3]
        editing = pool.submit(edit, shim, photo("cat"))
        shim.wait_for(lambda: shim.metric(COUNTER) >= 25)
        before = shim.metric(COUNTER)
        triton.kill()
        assert before < STEPS
        triton.start()
        response = editing.result()
        assert response.status_code == 200, f"{response.text[:500]}\n{shim.log}"
        assert response.json()["data"] == expected
        after = shim.metric(COUNTER)
        assert STEPS - SEGMENT_STEPS < before + after <= STEPS + SEGMENT_STEPS
        # The answer that tells of the last step counted may have died on its way.
        assert after <= STEPS - (before - 1) // SEGMENT_STEPS * SEGMENT_STEPS
        assert "Triton broke off after step" in shim.log
