"""A child of the launcher beside the supervised servers: restarted when it ends, or gives no sign of life."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from standalone.errors import LaunchError
from standalone.probe import Probe
from standalone.processes import Group, Reaper, ending
from standalone.restarts import Restarts

HUNG_SECONDS = 10.0  # without an answer
START_SECONDS = 60.0  # until the first one


@dataclass(frozen=True)
class Running:
    group: Group
    probe: Probe
    since: float

    def fault(self) -> str | None:
        """Why it must be restarted."""
        if (status := self.group.exit_status) is not None:
            return f"it {ending(status)}"
        silence, limit = self.probe.silence, HUNG_SECONDS if self.probe.answered else START_SECONDS
        return f"it has not answered for {silence:.0f} s" if silence > limit else None


class Service:
    """`tick()` is called every now and then, always from the same thread."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], url: str, reaper: Reaper, restarts: Restarts
    ) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._url = url  # any answer there is a sign of life
        self._reaper = reaper
        self._restarts = restarts
        self._lived = False  # at any time
        self._start_at = 0.0
        self._running: Running | None = None

    def tick(self) -> None:
        """Looks, and does what is needed; raises LaunchError where it never came to life, or failed too often."""
        if self._running is not None:
            self._lived = self._lived or self._running.probe.answered
            if fault := self._running.fault():
                self._failed(self._running, fault)
        elif time.monotonic() >= self._start_at:
            self._start()

    def stop(self, seconds: float) -> None:
        """Ends it, if it runs."""
        running, self._running = self._running, None
        if running is not None:
            running.group.stop(seconds)
            self._reaper.forget(running.group.pgid)
            running.probe.close()

    def _start(self) -> None:
        group = Group(self.name, self._command, self._env)
        self._reaper.remember(group.pgid)
        self._running = Running(group, Probe(self._url), time.monotonic())

    def _failed(self, running: Running, fault: str) -> None:
        now = time.monotonic()
        self.stop(0)
        if not self._lived:
            raise LaunchError(f"{self.name}: {fault} before it was ready: its log is above")
        self._start_at = now + self._restarts.failed(fault, now, now - running.since if running.probe.answered else 0.0)
