"""What goes on beside the storm: a client that must not notice it, slow clients, and the processes' memory."""

from __future__ import annotations

import re
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests

from tests.kit.answers import pictures
from tests.kit.servers import Server
from tests.kit.stacks import processes

SAMPLES = 5
RESIDENT = re.compile(r"^Rss(Anon|File|Shmem):\s+(\d+) kB$", re.MULTILINE)
CHANGED = 0.001  # of an edit's values may differ, by a grey level, when others share its forwards
SLOW_CLIENTS = 12


class Background:
    """A thread that repeats `turn` until it is left, and keeps what went wrong."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.problems: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def turn(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.turn()
            except Exception as error:
                self.problems.append(f"{type(self).__name__}: {error!r}")


class Bystander(Background):
    """Repeats one good edit and compares its pictures."""

    def __init__(self, server: Server, photo: bytes, **fields: str) -> None:
        super().__init__(server)
        self.photo = photo
        self._fields = {"prompt": "make it blue", "steps": "4", "seed": "7"} | (fields or {"size": "64x64"})
        self.seconds: list[float] = []
        self._session = requests.Session()
        self._undisturbed = self._edit()

    def turn(self) -> None:
        edited = self._edit()
        difference = np.abs(edited - self._undisturbed)
        if difference.max() > 1 or np.count_nonzero(difference) > CHANGED * difference.size:
            self.problems.append(f"{np.count_nonzero(difference)} values differ, by {difference.max()} at most")
        time.sleep(0.05)

    def _edit(self) -> Any:
        started = time.monotonic()
        answer = self._session.post(
            f"{self.server.url}/v1/images/edits",
            data=self._fields,
            files={"image": self.photo},
            timeout=60,
        )
        self.seconds.append(time.monotonic() - started)
        assert answer.status_code == 200, answer.text[:500]
        return np.stack(pictures(answer.json())).astype(int)


@dataclass
class SlowClient:
    """Sends a byte now and then, of a head or of a body that never end."""

    connection: socket.socket
    endless_body: bool
    opened: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, server: Server, endless_body: bool) -> SlowClient:
        head = b"POST /v1/images/edits HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        rest = b"content-length: 1000000\r\n\r\n--b\r\n" if endless_body else b"x-slow: "
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        connection.sendall(head + rest)
        connection.setblocking(False)
        return cls(connection, endless_body)

    def is_ended(self) -> bool:
        """By the server, with an answer or without."""
        try:
            self.connection.send(b"x")
            return len(self.connection.recv(2**16)) >= 0
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


class SlowClients(Background):
    """Every one of them must be ended within its time; another takes its place."""

    def __init__(self, server: Server, head_seconds: float, body_seconds: float) -> None:
        super().__init__(server)
        self.ended = 0
        self._limits = {False: head_seconds, True: body_seconds}
        self._clients: list[SlowClient] = []

    def turn(self) -> None:
        while len(self._clients) < SLOW_CLIENTS:
            self._clients.append(SlowClient.open(self.server, endless_body=len(self._clients) % 2 == 0))
        for client in list(self._clients):
            age = time.monotonic() - client.opened
            if client.is_ended():
                self.ended += 1
            elif age <= self._limits[client.endless_body]:
                continue
            else:
                self.problems.append(f"a slow client is still there after {age:.1f} s")
            client.connection.close()
            self._clients.remove(client)
        time.sleep(0.25)

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        for client in self._clients:
            client.connection.close()


@dataclass(frozen=True)
class Usage:
    memory: float  # bytes resident, without what is shared
    shared: float  # bytes of the region in /dev/shm, which is as large as its largest crowd, and is never made smaller
    files: int
    threads: int


def usage(server: Server) -> dict[str, Usage]:
    """Of the shim, tritonserver and the model's worker, once the server is at rest; medians of some samples."""
    server.wait_for(lambda: server.metric("qwen_edit_jobs") == 0, seconds=60)
    time.sleep(1)
    taken: list[dict[str, Usage]] = []
    for _ in range(SAMPLES):
        taken.append({name: _usage(process) for name, process in processes(server).items()})
        time.sleep(0.3)
    return median_usage(taken)


def median_usage(taken: Sequence[dict[str, Usage]]) -> dict[str, Usage]:
    return {name: _median([sample[name] for sample in taken]) for name in taken[0]}


def _usage(process: psutil.Process) -> Usage:
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = {name: int(kilobytes) * 1024 for name, kilobytes in RESIDENT.findall(status)}
    own = resident["Anon"] + resident["File"]
    return Usage(own, resident["Shmem"], process.num_fds(), process.num_threads())


def _median(samples: list[Usage]) -> Usage:
    return Usage(
        statistics.median(sample.memory for sample in samples),
        statistics.median(sample.shared for sample in samples),
        round(statistics.median(sample.files for sample in samples)),
        round(statistics.median(sample.threads for sample in samples)),
    )
