"""Looks at one running tritonserver: do its workers live, does it answer, do its engines get on."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request

import psutil

from standalone.engines import EngineWatch, parse

WORKER = "triton_python_backend_stub"
LOOK_SECONDS = 0.5
ANSWER_SECONDS = 2.0  # for one look at /metrics
SILENT_SECONDS = 3.0  # without an answer: no edit should be sent
GONE_SECONDS = 20.0  # without an answer: it is started again
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
    """Of a server whose model is loaded. /metrics is read on a thread of its own: it may take its time."""

    def __init__(self, pid: int, metrics_url: str, stall_seconds: float) -> None:
        self._workers = workers(pid)
        self._url = metrics_url
        self._stall_seconds = stall_seconds
        self._watches: dict[str, EngineWatch] = {}
        self._answered_at = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def jobs(self) -> int:
        """Edits that the engines hold, as they said last."""
        with self._lock:
            return sum(watch.jobs for watch in self._watches.values())

    def fault(self) -> str | None:
        """Why the server must be ended and started again."""
        if dead := [worker.pid for worker in self._workers if _status(worker) == psutil.STATUS_ZOMBIE]:
            return f"its worker {dead[0]} died"
        if (silence := time.monotonic() - self._answered_at) > GONE_SECONDS:
            return f"it has not answered for {silence:.0f} s"
        with self._lock:
            return next(filter(None, (watch.stalled(time.monotonic()) for watch in self._watches.values())), None)

    def problem(self) -> str | None:
        """Why no edit should be sent to the server now."""
        if fault := self.fault():
            return fault
        if any(_status(worker) == psutil.STATUS_STOPPED for worker in self._workers):
            return "a worker is stopped"
        if (silence := time.monotonic() - self._answered_at) > SILENT_SECONDS:
            return f"it has not answered for {silence:.0f} s"
        with self._lock:
            return next(filter(None, (watch.late(time.monotonic()) for watch in self._watches.values())), None)

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                with _no_proxy.open(self._url, timeout=ANSWER_SECONDS) as answer:
                    states = parse(answer.read().decode())
            except OSError:
                continue
            self._answered_at = time.monotonic()
            with self._lock:
                for instance, state in states.items():
                    watch = self._watches.setdefault(instance, EngineWatch(self._stall_seconds))
                    watch.observe(state, time.monotonic())


def _status(process: psutil.Process) -> str:
    """Of a process that is gone: that of a dead one whose parent has not looked."""
    try:
        return process.status() if process.is_running() else psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return psutil.STATUS_ZOMBIE
