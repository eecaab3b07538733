"""Process groups: every child gets one of its own, so that what it starts can be ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

SHM = Path("/dev/shm")
REAPER_SECONDS = 20.0  # in which it ends all groups that are left
PROJECT = Path(__file__).resolve().parents[1]


class Group:
    """A child that leads its own process group."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        # A session of its own also keeps the terminal's Ctrl-C from reaching the child before the launcher acts on it.
        self._process = subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL, start_new_session=True)

    @property
    def pgid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """The leader's exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def stop(self, seconds: float) -> None:
        """Asks the leader to end, waits up to `seconds`, then kills whatever is left of the group."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        kill_group(self.pgid)
        self._process.wait()


def python_path() -> str:
    """PYTHONPATH for a child that runs a module of this project."""
    return os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))


def ending(exit_status: int) -> str:
    """How a process ended, in words."""
    if exit_status < 0:
        return f"was killed by {signal.Signals(-exit_status).name}"
    return f"ended with status {exit_status}"


def kill_group(pgid: int, seconds: float = 5.0) -> None:
    """SIGKILLs a process group and waits until none of its members runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while members(pgid) and time.monotonic() < deadline:
        time.sleep(0.05)


def members(pgid: int) -> list[int]:
    """Process ids in the group, zombies left out: those wait only for their parent to look."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == pgid:
                found.append(process.pid)
    return found


def remove_shared_memory(prefix: str) -> None:
    """Removes the shared-memory regions that a killed server with this prefix left behind."""
    for region in SHM.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


class Reaper:
    """A process that ends the groups it was told of when we are gone, however that came; see reaper.py."""

    def __init__(self, shm_prefix: str) -> None:
        self._shm_prefix = shm_prefix
        self._groups: set[int] = set()
        self._process = self._started()

    def remember(self, pgid: int) -> None:
        self._groups.add(pgid)
        self._tell(self._process, pgid)

    def forget(self, pgid: int) -> None:
        """The group has ended."""
        self._groups.discard(pgid)
        self._tell(self._process, -pgid)

    def keep(self) -> None:
        """Starts it again where it has ended."""
        if self._process.poll() is not None:
            self._end_input()
            self._process = self._started()

    def close(self) -> None:
        self._end_input()
        try:
            self._process.wait(REAPER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "standalone.reaper", self._shm_prefix]
        env = {**os.environ, "PYTHONPATH": python_path()}
        process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, text=True, start_new_session=True)
        for pgid in self._groups:
            self._tell(process, pgid)
        return process

    def _tell(self, process: subprocess.Popen[str], number: int) -> None:
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its successor is told of all groups
            print(number, file=process.stdin, flush=True)

    def _end_input(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
