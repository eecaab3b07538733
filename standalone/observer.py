"""Looks at one running tritonserver: do its workers live, does it answer, do its engines get on."""

from __future__ import annotations

import contextlib
import threading

import psutil

from standalone.clock import Clock
from standalone.engines import EngineWatch, parse
from standalone.probe import Probe

WORKER = "triton_python_backend_stub"
SILENT_SECONDS = 3.0  # without an answer: no edit should be sent
GONE_SECONDS = 20.0  # without an answer: it is restarted


def workers(pid: int) -> list[psutil.Process]:
    """The Python-backend workers that tritonserver `pid` has started."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if WORKER in " ".join(child.cmdline()[:1]):
                    found.append(child)
    return found


class Observer:
    """Of a server whose model is loaded."""

    def __init__(self, pid: int, metrics_url: str, stall_seconds: float) -> None:
        self._workers = workers(pid)
        self._stall_seconds = stall_seconds
        self._watches: dict[str, EngineWatch] = {}
        self._lock = threading.Lock()
        self._clock = Clock()
        self._probe = Probe(metrics_url, self._hear)

    def close(self) -> None:
        self._probe.close()

    @property
    def unfinished(self) -> int:
        """Edits that the engines hold or expect back, as they said last."""
        with self._lock:
            return sum(watch.unfinished for watch in self._watches.values())

    def fault(self) -> str | None:
        """Why the server must be restarted."""
        if dead := self._dead():
            return f"its worker {dead[0]} died"
        if (silence := self._probe.silence) > GONE_SECONDS:
            return f"it has not answered for {silence:.0f} s"
        with self._lock:
            return next(filter(None, (watch.stalled(self._clock.now()) for watch in self._watches.values())), None)

    def at_fault(self) -> set[str]:
        """Process ids of the workers that died, and names of the instances whose engine stands still."""
        with self._lock:
            stalled = {name for name, watch in self._watches.items() if watch.stalled(self._clock.now())}
        return stalled | {str(pid) for pid in self._dead()}

    def problem(self) -> str | None:
        """Why no edit should be sent to the server now."""
        if fault := self.fault():
            return fault
        if any(_status(worker) == psutil.STATUS_STOPPED for worker in self._workers):
            return "a worker is stopped"
        if (silence := self._probe.silence) > SILENT_SECONDS:
            return f"it has not answered for {silence:.0f} s"
        with self._lock:
            return next(filter(None, (watch.late(self._clock.now()) for watch in self._watches.values())), None)

    def _dead(self) -> list[int]:
        return [worker.pid for worker in self._workers if _status(worker) == psutil.STATUS_ZOMBIE]

    def _hear(self, metrics: bytes) -> None:
        states = parse(metrics.decode())
        with self._lock:
            for instance, state in states.items():
                watch = self._watches.setdefault(instance, EngineWatch(self._stall_seconds))
                watch.observe(state, self._clock.now())


def _status(process: psutil.Process) -> str:
    """Of a process that is gone: that of a dead one whose parent has not looked."""
    try:
        return process.status() if process.is_running() else psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return psutil.STATUS_ZOMBIE
