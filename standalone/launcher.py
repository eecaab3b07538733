"""Starts tritonserver and the shim, keeps both serving, and stops both when the launcher is told to."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from standalone import balancer, cuda, machine, tritonserver
from standalone.errors import LaunchError
from standalone.plan import Plan, plan
from standalone.ports import Wanted, ports_of, refuse_taken_ports
from standalone.probe import answers_200
from standalone.processes import PROJECT, Reaper, python_path, remove_shared_memory
from standalone.restarts import Restarts
from standalone.service import Service
from standalone.settings import Settings, url_host
from standalone.signals import on_end
from standalone.supervisor import POLL_SECONDS, TRITON_STOP_SECONDS, Phase, Supervisor, configure_logging

PROGRESS_SECONDS = 5.0
BALANCER_START_SECONDS = 30.0
SHIM_START_SECONDS = 60.0
# On one machine a stop is for somebody who waits at a terminal: edits under way get this long, then all is ended.
SHIM_STOP_SECONDS = 2.0
# After a failure no edit can be finished.
FAILED_STOP_SECONDS = 1.0
DEMO_CHECKPOINT = PROJECT / "checkpoints" / "demo" / "qwen-image-edit-demo"
MODEL_CARD = (DEMO_CHECKPOINT / "MODEL_CARD.md").relative_to(PROJECT)
SAMPLE_PICTURE = PROJECT / "tests" / "data" / "cat.jpg"
SAVE_PICTURE = (
    'python3 -c "import base64, json, sys; '
    "sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)['data'][0]['b64_json']))\""
)


@dataclass(frozen=True)
class Upstream:
    """Where the shim finds a Triton, and whether it is well."""

    url: str
    health_url: str


class Launcher:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shm_prefix = f"qwen_image_edit_{os.getpid()}_"
        self.supervisors: list[Supervisor] = []
        self.services: list[Service] = []  # what is before them
        self.signal: int | None = None

    def run(self) -> int:
        """Serves until a signal; returns the exit status, never 0: a server has no normal end."""
        configure_logging(self.settings.log_level)
        triton = tritonserver.find()
        tritonserver.config_name(self.settings, cuda.device_count())  # refuses a device map that cannot be
        model_dir = self.settings.model_dir or demo_checkpoint()
        on_end(self._note_signal)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="qwen-image-edit-") as folder:
            plans = plan(
                self.settings, triton, model_dir=model_dir, shm_prefix=self.shm_prefix, folder=Path(folder)
            )  # fmt: skip
            refuse_taken_ports(self._ports(plans))
            machine.prepare(self.settings)
            self._reaper = Reaper(self.shm_prefix)
            try:
                self._start_tritons(plans)
                self._start_shim(model_dir, self._start_balancer(plans))
                if self.signal is None:
                    announce(self.settings, time.monotonic() - started)
                return self._watch()
            finally:
                self._stop()

    def _ports(self, plans: list[Plan]) -> list[Wanted]:
        settings = self.settings
        balancer = [Wanted("BALANCER_PORT", "HOST", "127.0.0.1", settings.balancer_port)] if len(plans) > 1 else []
        return [Wanted("PORT", "HOST", settings.host, settings.port), *ports_of(plans), *balancer]

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def _start(self, name: str, command: list[str], env: dict[str, str], url: str) -> Service:
        restarts = Restarts(name, self.settings, gives_up=False)
        service = Service(name, command, env, url, self._reaper, restarts)
        self.services.append(service)
        return service

    def _start_tritons(self, plans: list[Plan]) -> None:
        self.supervisors = [Supervisor(each, self._reaper, gives_up=False) for each in plans]
        for supervisor in self.supervisors:
            supervisor.start()
        self._wait(lambda: all(s.phase is Phase.SERVING for s in self.supervisors), "the model is loading")

    def _start_balancer(self, plans: list[Plan]) -> Upstream:
        """One address for all servers: their own, or that of a HAProxy in front of several."""
        if len(plans) == 1 or self.signal is not None:
            return Upstream(self.settings.triton_url, self.settings.health_url)
        env = {**os.environ, **balancer.environment(self.settings, plans)}
        url = f"http://127.0.0.1:{self.settings.balancer_port}"
        health_url = f"{url}/healthz"
        haproxy = self._start("haproxy", balancer.command(), env, health_url)
        self._wait(lambda: answers_200(health_url), "the balancer is starting", haproxy, BALANCER_START_SECONDS)
        return Upstream(url, health_url)

    def _start_shim(self, model_dir: str, upstream: Upstream) -> None:
        if self.signal is not None:
            return
        env = {
            **tritonserver.MALLOC,
            **os.environ,
            # No balancer has to notice the stop; what is under way is waited for all the same.
            "DRAIN_SECONDS": os.environ.get("DRAIN_SECONDS") or "0",
            "TRITON_URL": upstream.url,
            "HEALTH_URL": upstream.health_url,
            "QWEN_MODEL_DIR": model_dir,
            "HOST": self.settings.host,
            "PORT": str(self.settings.port),
            "PYTHONPATH": python_path(),
        }
        url = self.settings.shim_url
        shim = self._start("shim", [sys.executable, "-m", "shim"], env, f"{url}/health")
        self._wait(lambda: answers_200(f"{url}/ready"), "the shim is starting", shim, SHIM_START_SECONDS)

    def _wait(
        self, ready: Callable[[], bool], doing: str, service: Service | None = None, seconds: float = float("inf")
    ) -> None:
        """Until `ready()` or a signal, with a line of progress every few seconds."""
        started = shown = time.monotonic()
        while self.signal is None and not ready():
            self._tick()
            now = time.monotonic()
            if service is not None and now - started > seconds:
                raise LaunchError(f"{service.name} was not ready after {seconds:.0f} s")
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                print(f"{doing}: {now - started:.0f} s", flush=True)
            time.sleep(POLL_SECONDS)

    def _watch(self) -> int:
        while self.signal is None:
            self._tick()
            time.sleep(POLL_SECONDS)
        return 128 + self.signal

    def _tick(self) -> None:
        self._reaper.keep()
        for supervisor in self.supervisors:
            supervisor.tick()
        for service in self.services:
            service.tick()

    def _stop(self) -> None:
        """The shim first, so that no edit meets a Triton that is gone."""
        for service in reversed(self.services):
            service.stop(SHIM_STOP_SECONDS if self.signal is not None else FAILED_STOP_SECONDS)
        for supervisor in self.supervisors:
            supervisor.stop(TRITON_STOP_SECONDS if self.signal is not None else FAILED_STOP_SECONDS)
        remove_shared_memory(self.shm_prefix)
        self._reaper.close()


def demo_checkpoint() -> str:
    """The folder of the demo checkpoint."""
    print(f"QWEN_MODEL_DIR is not set: serving the demo, a toy that knows a few edits ({MODEL_CARD}).", flush=True)
    return str(DEMO_CHECKPOINT)


def announce(settings: Settings, seconds: float) -> None:
    url = settings.shim_url
    key = ' -H "Authorization: Bearer $API_KEY"' if settings.api_key or settings.api_key_file else ""
    print(
        f"""
Ready after {seconds:.0f} s.
  page     {url}/
  edits    {url}/v1/images/edits
  health   {url}/health  {url}/ready  {url}/metrics
  Triton   {settings.triton_url}  gRPC {url_host(settings.triton_address)}:{settings.triton_grpc_port}  \
{settings.metrics_url}

Try it (writes edited.png):
curl -sS {url}/v1/images/edits{key} -F image=@{SAMPLE_PICTURE} -F prompt="make it black and white" -F size=256x256 \
| {SAVE_PICTURE} > edited.png
""",
        flush=True,
    )
