"""The processes in which pictures are decoded, see decoder.py: two, each replaced when it was ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from PIL import Image

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.loading.checkpoint import LoadError
from qwen_edit.pictures.decoder import READY, cpu_seconds

DECODERS = 2
START_SECONDS = 60.0
STILL_SECONDS = 25.0  # without any CPU time, with a picture; how much of that it may take is its own affair
TRIES = 2  # of a picture whose decoder was ended from outside
COMMAND = (sys.executable, "-m", "qwen_edit.pictures.decoder")
# What a large picture took goes back to the system at once: kept, it would be missing from the next one's limit.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).parents[2]  # where qwen_edit lies

Wanted = Callable[[Size], Sequence[Size]]
Decoded = tuple[Size, list[Image.Image]]  # its own size, upright, and it at the wanted ones


@dataclass(frozen=True)
class Task:
    """What decoder.py's `_answer` takes by these names."""

    tensor: str
    mode: str  # of the pictures that are answered
    max_pixels: int
    needed_pixels: int | None  # of any picture, see PictureFile.decoded


class Ended(Exception):
    """The decoder's process has ended; `status` is its exit status, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a decoder ended with status {status}")
        self.status = status


class Decoder:
    """One process, for one thread at a time."""

    def __init__(self) -> None:
        """Raises LoadError where it does not start."""
        self._connection, theirs = Pipe()
        env = {**os.environ, **ENVIRONMENT}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    COMMAND, cwd=ROOT, env=env, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
                )
            except OSError as error:
                self._connection.close()
                raise LoadError(f"{sys.executable}, which decodes pictures, does not start: {error.strerror}") from None

    def await_ready(self) -> None:
        with suppress(EOFError, OSError):
            if self._connection.poll(START_SECONDS) and self._connection.recv_bytes() == READY:
                return
        raise LoadError(f"{' '.join(COMMAND)}, which decodes pictures, ended with status {self.end()}")

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def decode(self, data: bytes, wanted: Wanted, task: Task) -> Decoded:
        """Raises BadRequest, Ended, and what `wanted` raises."""
        done = threading.Event()
        threading.Thread(target=self._end_where_still, args=(done,), name="decoding", daemon=True).start()
        try:
            return self._converse(data, wanted, task)
        except (EOFError, OSError):
            raise Ended(self.end()) from None
        finally:
            done.set()

    def _end_where_still(self, done: threading.Event) -> None:
        """Not by the time that a picture takes: on a busy machine a decoder, which lets others go first, gets little
        of it."""
        before = self._cpu_ticks()
        while not done.wait(STILL_SECONDS):
            after = self._cpu_ticks()
            if after == before:
                self._process.kill()
            before = after

    def _cpu_ticks(self) -> int:
        """That it has taken; 0 when it has ended."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0
        user, system = stat.rpartition(")")[2].split()[11:13]
        return int(user) + int(system)

    def end(self) -> int:
        """Its exit status."""
        self._connection.close()
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _converse(self, data: bytes, wanted: Wanted, task: Task) -> Decoded:
        self._send(asdict(task))
        self._connection.send_bytes(data)
        width, height = self._answer(task.tensor)["size"]
        sizes: Sequence[Size] = ()
        try:
            sizes = wanted((width, height))
        finally:
            self._send(sizes)
        if sizes:
            self._answer(task.tensor)
        return (width, height), [Image.frombytes(task.mode, size, self._connection.recv_bytes()) for size in sizes]

    def _send(self, value: object) -> None:
        self._connection.send_bytes(json.dumps(value).encode())

    def _answer(self, tensor: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        if "refused" in answer:
            raise BadRequest(tensor, answer["refused"])
        return answer


class Decoders:
    """For several threads: who finds all of them at work waits."""

    def __init__(self, max_pixels: int, needed_pixels: int) -> None:
        """`needed_pixels`: the most that are wanted of any picture; raises LoadError where they do not start."""
        self._pictures = {mode: Task("image", mode, max_pixels, needed_pixels) for mode in ("RGB", "RGBA")}
        self._mask = Task("mask", "L", max_pixels, None)
        self._drawing = Task("markup", "RGBA", max_pixels, None)
        self._free: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        started = [Decoder() for _ in range(DECODERS)]
        try:
            for decoder in started:
                decoder.await_ready()
                self._free.put(decoder)
        except LoadError:
            for decoder in started:
                decoder.end()
            raise

    def picture(self, data: bytes, wanted: Wanted, *, alpha: bool = False) -> Decoded:
        """At the sizes that `wanted` tells of its own; RGB on white, or RGBA. Raises BadRequest."""
        return self._tried(data, wanted, self._pictures["RGBA" if alpha else "RGB"])

    def mask(self, data: bytes, wanted: Wanted) -> Decoded:
        """Likewise its region."""
        return self._tried(data, wanted, self._mask)

    def drawing(self, data: bytes, wanted: Wanted) -> Decoded:
        """RGBA, and not opaque everywhere."""
        return self._tried(data, wanted, self._drawing)

    def _tried(self, data: bytes, wanted: Wanted, task: Task) -> Decoded:
        tensor = task.tensor
        for _ in range(TRIES):
            try:
                return self._decode(data, wanted, task)
            except Ended as ended:
                if ended.status >= 0:
                    raise  # a bug of ours
                status = ended.status
            if status != -signal.SIGKILL:  # which comes from outside
                break
        raise BadRequest(tensor, f"{len(data)} bytes, not a picture that is decoded here: it {_end(status, len(data))}")

    def close(self) -> None:
        for _ in range(DECODERS):
            self._free.get().end()

    def _decode(self, data: bytes, wanted: Wanted, task: Task) -> Decoded:
        decoder = self._free.get()
        try:
            if decoder.has_ended:
                decoder = Decoder()
                decoder.await_ready()
            return decoder.decode(data, wanted, task)
        finally:
            self._free.put(decoder)


def at_once() -> int:
    """Decoders that are to work at a time: the engine's steps have a core, which niceness alone would not free."""
    return max(1, min(DECODERS, len(os.sched_getaffinity(0)) - 1))


def _end(status: int, file_bytes: int) -> str:
    if status == -signal.SIGPROF:
        return f"takes more than {cpu_seconds(file_bytes):.0f} s of CPU time"
    return "ends its decoder"
