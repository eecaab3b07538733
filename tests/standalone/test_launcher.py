"""The launcher starts again what fails, and ends everything that it started, however it ends itself."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from standalone.observer import WORKER
from standalone.probe import ASK_SECONDS
from tests.kit.servers import Server, serve

KEY = "a-secret-of-the-launcher"
END_SECONDS = 10.0
SHM = Path("/dev/shm")
OF_A_LAUNCHER = re.compile(r"qwen_image_edit_(\d+)_")  # names of shared-memory regions
# Every process of a server by what is in its command line; the first that fits.
PARTS = {
    "reaper": "-m standalone.reaper",
    "launcher": "-m standalone",
    "shim": "-m shim",
    "worker": WORKER,
    "decoder": "-m qwen_edit.pictures.decoder",
    "tritonserver": "/tritonserver",
}


@dataclass
class Launched:
    """A server in the middle of an edit, and what the machine looked like before it."""

    server: Server
    processes: dict[str, psutil.Process]
    shared_memory: set[str]

    @property
    def ports(self) -> list[int]:
        server = self.server
        triton = server.triton_http_port, server.triton_grpc_port, server.triton_metrics_port
        return [server.port, *triton, server.supervisor_port]

    def left(self) -> list[str]:
        """What is still there of it."""
        known = [name for name, process in self.processes.items() if is_alive(process)]
        mark = f"qwen_image_edit_{self.server.process.pid}_"
        unknown = [" ".join(process.cmdline()) for process in psutil.process_iter() if names(process, mark)]
        ports = [f"port {port}" for port in self.ports if not is_free(port)]
        return [*known, *unknown, *ports, *(shared_memory(self.server) - self.shared_memory)]


def names(process: psutil.Process, mark: str) -> bool:
    try:
        return any(mark in argument for argument in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def is_alive(process: psutil.Process) -> bool:
    """Zombies are dead: who should collect them is not ours."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def shared_memory(server: Server | None = None) -> set[str]:
    """What is in /dev/shm, without the regions of other launchers, which come and go beside ours."""
    ours = str(server.process.pid) if server else ""
    entries = [(path.name, OF_A_LAUNCHER.match(path.name)) for path in SHM.iterdir()]
    return {name for name, match in entries if not match or match[1] == ours}


def parts(launcher: psutil.Process) -> dict[str, psutil.Process]:
    found = {}
    for process in [launcher, *launcher.children(recursive=True)]:
        command = " ".join(process.cmdline()[:3])
        found[max((part for part, mark in PARTS.items() if mark in command), key=lambda part: len(PARTS[part]))] = (
            process
        )
    return found


@contextlib.contextmanager
def launched(checkpoint: Path, picture: bytes) -> Iterator[Launched]:
    """While its model is at work on an edit of half a minute."""
    before = shared_memory()
    with serve(checkpoint, REFERENCE_AREA="4096", API_KEY=KEY, DRAIN_SECONDS="") as server:
        edit = threading.Thread(target=start_edit, args=(server, picture))
        edit.start()
        server.wait_for(lambda: server.metric("qwen_edit_steps_total") >= 2)
        yield Launched(server, parts(psutil.Process(server.process.pid)), before)
    edit.join()


def start_edit(server: Server, picture: bytes) -> None:
    url, fields = f"{server.url}/v1/images/edits", {"prompt": "x", "size": "1024x1024", "steps": "100"}
    with contextlib.suppress(requests.RequestException):
        answer = requests.post(url, data=fields, files={"image": picture}, auth=("u", KEY), timeout=60)
        assert answer.status_code >= 500


def test_nothing_is_left_10_s_after_the_launcher_was_ended_in_the_middle_of_an_edit(
    checkpoint: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    """By SIGTERM and by SIGKILL, on two servers at a time: each takes seconds to start."""
    folder, picture = checkpoint("plus"), photo("cat")

    def end_by(number: signal.Signals) -> None:
        with launched(folder, picture) as started:
            started.server.process.send_signal(number)
            check_end(started, -number if number == signal.SIGKILL else 128 + number)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(end_by, (signal.SIGTERM, signal.SIGKILL)))


def check_end(launched: Launched, status: int) -> None:
    deadline = time.monotonic() + END_SECONDS
    while (left := launched.left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    server = launched.server
    assert not left, server.log
    assert launched.processes.keys() == PARTS.keys()
    assert server.process.wait(1) == status
    assert KEY not in server.log


def test_a_shim_that_ends_or_hangs_is_started_again_and_triton_goes_on(
    checkpoint: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    with launched(checkpoint("plus"), photo("cat")) as started:
        server = started.server
        for number in (signal.SIGKILL, signal.SIGSTOP):
            time.sleep(2 * ASK_SECONDS)
            old = parts(psutil.Process(server.process.pid))["shim"]
            old.send_signal(number)
            server.wait_for(lambda old=old: not is_alive(old), seconds=30)  # type: ignore[misc]
            server.wait_ready()
        fields, files = {"prompt": "x", "size": "64x64", "steps": "2"}, {"image": photo("cat")}
        answer = requests.post(f"{server.url}/v1/images/edits", data=fields, files=files, auth=("u", KEY), timeout=60)
        assert answer.status_code == 200
        for part in ("launcher", "tritonserver", "worker"):
            assert is_alive(started.processes[part])
        for fault in ("it was killed by SIGKILL", "it has not answered for .* s"):
            assert re.search(f"ERROR - shim: {fault}; it is restarted in 0 s", server.log)


def test_a_triton_that_failed_too_often_is_left_in_peace_for_minutes(checkpoint: Callable[[str], Path]) -> None:
    """And not for ever: nobody else would start it again."""
    with serve(checkpoint("plus"), MAX_FAILURES="1") as server:
        running = parts(psutil.Process(server.process.pid))
        running["worker"].kill()
        server.wait_for(lambda: "CRITICAL" in server.log)
        assert re.search("that was failure 1 within .*: it serves nothing until the next try, in 300 s", server.log)
        server.wait_for(lambda: requests.get(f"{server.url}/ready", timeout=5).status_code == 503)
        health = requests.get(server.healthz, timeout=5)
        assert (health.status_code, health.json()["reason"]) == (503, "tritonserver failed and will be restarted")
        assert [is_alive(running[part]) for part in ("launcher", "shim", "tritonserver")] == [True, True, False]
