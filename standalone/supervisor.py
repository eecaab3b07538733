"""Keeps tritonserver serving: starts it, watches it, and starts it again when it or one of its workers fails.

Triton 24.10 does not replace a Python-backend worker that died: it still calls itself ready, and the calls that the
worker held never come back. So the whole server is ended, which resets its sockets, and whoever was waiting sends the
interrupted segments again.

Run: python -m standalone.supervisor [flags of tritonserver]
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from standalone import healthz, machine, tritonserver
from standalone.blame import acquit
from standalone.errors import LaunchError
from standalone.healthz import HealthServer, Problem
from standalone.observer import Observer
from standalone.parts import checked_settings
from standalone.plan import Plan, plan
from standalone.ports import ports_of, refuse_taken_ports
from standalone.private_folder import private_folder
from standalone.probe import NO_ANSWER
from standalone.processes import Group, Reaper, ending, remove_shared_memory
from standalone.restarts import Restarts
from standalone.settings import Settings
from standalone.signals import on_end

log = logging.getLogger("image_edit_server")

POLL_SECONDS = 0.2
DRAINING = "draining"  # the file in the control folder while whose presence engines refuse new edits
DRAINED_SECONDS = 2.0  # without an edit, here or between two segments, after which a draining server is ended
TRITON_STOP_SECONDS = 3.0
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Phase(enum.Enum):
    LOADING = "the model is loading"
    SERVING = "serving"
    WAITING = "tritonserver failed and will be restarted"
    DRAINING = "draining"
    STOPPED = "stopped"


class Supervisor:
    """One tritonserver. `tick()` is called every POLL_SECONDS, always from the same thread."""

    def __init__(self, plan: Plan, reaper: Reaper, *, gives_up: bool = True) -> None:
        self.plan = plan
        self.phase = Phase.LOADING
        self._reaper = reaper
        self._group: Group | None = None
        self._observer: Observer | None = None
        self._restarts = Restarts(plan.name, plan.settings, gives_up=gives_up)
        self._served = False  # at any time
        self._serving_since = self._restart_at = self._drain_until = 0.0
        self._busy_at = 0.0  # when an edit was last seen while draining
        self._health = HealthServer(plan.settings.triton_address, plan.settings.supervisor_port, self.problem)

    def start(self) -> None:
        self._group = Group(self.plan.name, self.plan.command, self.plan.environment)
        self._reaper.remember(self._group.pgid)
        self.phase = Phase.LOADING

    def tick(self) -> None:
        """Looks, and does what is needed; raises LaunchError where it gives up."""
        match self.phase:
            case Phase.LOADING:
                self._await_model()
            case Phase.SERVING:
                if fault := self._fault():
                    self._failed(fault)
            case Phase.WAITING:
                if time.monotonic() >= self._restart_at:
                    self.start()
            case Phase.DRAINING:
                self._await_drained()

    def problem(self) -> Problem | None:
        """Why no edit should be sent here; called from other threads."""
        phase, observer, group = self.phase, self._observer, self._group
        if phase is Phase.DRAINING:
            return Problem(phase.value, healthz.DRAINING)
        if phase is not Phase.SERVING or observer is None:
            return Problem(phase.value)
        if group is None or group.exit_status is not None:
            return Problem("tritonserver has ended")
        reason = observer.problem()
        return Problem(reason) if reason else None

    def drain(self) -> None:
        """New edits are refused from now on; the server ends when it has none left, or after DRAIN_SECONDS."""
        if self.phase is not Phase.SERVING:
            self.stop()
            return
        self.phase = Phase.DRAINING
        (private_folder(self.plan.control_dir) / DRAINING).touch()
        now = self._busy_at = time.monotonic()
        self._drain_until = now + self.plan.settings.drains_for
        log.info("%s: draining for at most %.0f s", self.plan.name, self.plan.settings.drains_for)

    def stop(self, seconds: float = TRITON_STOP_SECONDS) -> None:
        """Ends the server; what it does not finish within `seconds` is lost."""
        if self.phase is Phase.STOPPED:
            return
        self.phase = Phase.STOPPED
        self._end_server(seconds)
        self._health.close()

    def _await_model(self) -> None:
        try:
            self._check_alive()
            loaded = self._model_is_loaded()
        except LaunchError as error:
            if not self._served:
                raise  # the same would come of every further try
            self._failed(str(error))
            return
        if loaded:
            assert self._group
            settings = self.plan.settings
            self._observer = Observer(self._group.pgid, settings.metrics_url, settings.worker_stall_seconds)
            self._served, self._serving_since = True, time.monotonic()
            self.phase = Phase.SERVING

    def _check_alive(self) -> None:
        assert self._group
        if (status := self._group.exit_status) is not None:
            raise LaunchError(f"{self.plan.name} {ending(status)} before it was ready: its log is above")

    def _model_is_loaded(self) -> bool:
        """False while Triton does not answer: it listens once loading is over, successful or not."""
        url = f"{self.plan.settings.triton_url}/v2/repository/index"
        request = urllib.request.Request(url, data=b"", headers=self.plan.access.headers)
        try:
            with _no_proxy.open(request, timeout=2) as answer:
                return tritonserver.model_is_loaded(json.load(answer), Path(self.plan.command[0]))
        except NO_ANSWER:
            return False

    def _fault(self) -> str | None:
        assert self._group
        assert self._observer
        if (status := self._group.exit_status) is not None:
            return ending(status)
        return self._observer.fault()

    def _failed(self, fault: str) -> None:
        """Ends all of it at once, so that whoever waits for an answer is free to send the edit again."""
        now = time.monotonic()
        served_seconds = now - self._serving_since if self.phase is Phase.SERVING else 0.0
        self.phase = Phase.WAITING
        if self._observer is not None:
            acquit(self.plan.control_dir, self._observer.at_fault())
        self._end_server(0)
        self._restart_at = now + self._restarts.failed(fault, now, served_seconds)

    def _await_drained(self) -> None:
        now = time.monotonic()
        if self._fault() is not None or now >= self._drain_until:
            self.stop()
            return
        assert self._observer
        if self._observer.unfinished:
            self._busy_at = now
        elif now - self._busy_at >= DRAINED_SECONDS:
            self.stop()

    def _end_server(self, seconds: float) -> None:
        observer, self._observer = self._observer, None
        if self._group is not None:
            self._group.stop(seconds)
            self._reaper.forget(self._group.pgid)
            self._group = None
        if observer is not None:
            observer.close()
        remove_shared_memory(self.plan.shm_prefix)


def configure_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.handlers = [handler]
    log.setLevel(level)


def supervise(settings: Settings, flags: Sequence[str]) -> None:
    """Serves until SIGTERM or Ctrl-C, then drains; a second signal ends at once. Raises LaunchError."""
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    on_end(note)
    shm_prefix = f"qwen_image_edit_{os.getpid()}_"
    with contextlib.ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="qwen-image-edit-")))
        reaper = Reaper(shm_prefix)
        resources.callback(reaper.close)
        plans = plan(
            settings, tritonserver.find(), model_dir=settings.model_dir, shm_prefix=shm_prefix, folder=folder,
            flags=flags,
        )  # fmt: skip
        refuse_taken_ports(ports_of(plans))
        machine.prepare(settings)
        supervisors = [Supervisor(each, reaper) for each in plans]
        for supervisor in supervisors:
            resources.callback(supervisor.stop)
            supervisor.start()
        given_up: LaunchError | None = None
        while living := [each for each in supervisors if each.phase is not Phase.STOPPED]:
            if len(signals) > 1:
                return
            reaper.keep()
            for supervisor in living:
                if signals and supervisor.phase is not Phase.DRAINING:
                    supervisor.drain()
                try:
                    supervisor.tick()
                except LaunchError as error:  # the others go on
                    given_up = error
                    log.error("%s", error)
                    supervisor.stop(0)
            time.sleep(POLL_SECONDS)
        if given_up:
            raise given_up


def main() -> int:
    try:
        settings = checked_settings()
        configure_logging(settings.log_level)
        supervise(settings, sys.argv[1:])
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
