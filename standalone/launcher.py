"""Starts tritonserver and the shim, watches both, and stops both when either ends or the launcher is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from types import FrameType
from typing import IO

from standalone import cuda, tritonserver
from standalone.errors import LaunchError
from standalone.processes import Group, remove_shared_memory
from standalone.settings import PROJECT, Settings

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
SHIM_START_SECONDS = 60.0
# On one machine a stop is for somebody who waits at a terminal: edits under way get this long, then all is ended.
SHIM_STOP_SECONDS = 2.0
TRITON_STOP_SECONDS = 3.0
# After a failure no edit can be finished.
FAILED_STOP_SECONDS = 1.0
SAMPLE_PICTURE = PROJECT / "tests" / "data" / "cat.jpg"
SAVE_PICTURE = (
    'python3 -c "import base64, json, sys; '
    "sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)['data'][0]['b64_json']))\""
)
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Launcher:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shm_prefix = f"qwen_image_edit_{os.getpid()}_"
        self.groups: list[Group] = []
        self.signal: int | None = None
        self._reaper: subprocess.Popen[str] | None = None

    def run(self) -> int:
        """Serves until a signal or a child's end; returns the exit status, never 0: a server has no normal end."""
        refuse_taken_ports(self.settings)
        triton = tritonserver.find()
        config_name = tritonserver.config_name(self.settings, cuda.device_count())
        model_dir = self.settings.model_dir or demo_checkpoint()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note_signal)
        started = time.monotonic()
        try:
            self._start_reaper()
            self._start_triton(triton, config_name, model_dir)
            self._start_shim(model_dir)
            if self.signal is None:
                announce(self.settings, time.monotonic() - started)
            return self._watch()
        finally:
            self._stop()

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def _start_reaper(self) -> None:
        command = [sys.executable, "-m", "standalone.reaper", self.shm_prefix]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        self._reaper = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, text=True, start_new_session=True)

    @property
    def _reaper_input(self) -> IO[str]:
        if self._reaper is None or self._reaper.stdin is None:
            raise RuntimeError("the reaper is started first")
        return self._reaper.stdin

    def _start(self, name: str, command: list[str], env: dict[str, str]) -> Group:
        group = Group(name, command, env)
        self.groups.append(group)
        print(group.pgid, file=self._reaper_input, flush=True)
        return group

    def _start_triton(self, triton: tritonserver.TritonServer, config_name: str, model_dir: str) -> None:
        command = triton.command(self.settings, config_name, self.shm_prefix)
        group = self._start("tritonserver", command, triton.environment(os.environ, self.settings, model_dir))
        self._wait(group, self._model_is_loaded, "the model is loading")

    def _model_is_loaded(self) -> bool:
        """False while Triton does not answer: it listens once loading is over, successful or not."""
        url = f"http://127.0.0.1:{self.settings.triton_http_port}/v2/repository/index"
        try:
            with _no_proxy.open(url, data=b"", timeout=2) as answer:
                index = json.load(answer)
        except OSError:
            return False
        return tritonserver.model_is_loaded(index)

    def _start_shim(self, model_dir: str) -> None:
        if self.signal is not None:
            return
        env = {
            **os.environ,
            # No balancer has to notice the stop; what is under way is waited for all the same.
            "DRAIN_SECONDS": os.environ.get("DRAIN_SECONDS") or "0",
            "TRITON_URL": f"http://127.0.0.1:{self.settings.triton_http_port}",
            "QWEN_MODEL_DIR": model_dir,
            "HOST": self.settings.host,
            "PORT": str(self.settings.port),
            "PYTHONPATH": str(PROJECT),
        }
        group = self._start("shim", [sys.executable, "-m", "shim"], env)
        url = f"{local_url(self.settings)}/ready"
        self._wait(group, lambda: answers_200(url), "the shim is starting", SHIM_START_SECONDS)

    def _wait(self, group: Group, ready: Callable[[], bool], doing: str, seconds: float = float("inf")) -> None:
        """Until `ready()`, a signal, or the end of `group`, with a line of progress every few seconds."""
        started = time.monotonic()
        shown = started
        while self.signal is None and not ready():
            now = time.monotonic()
            if group.exit_status is not None:
                raise LaunchError(f"{group.name} {ending(group.exit_status)} before it was ready: its log is above")
            if now - started > seconds:
                raise LaunchError(f"{group.name} was not ready after {seconds:.0f} s")
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                print(f"{doing}: {now - started:.0f} s", flush=True)
            time.sleep(POLL_SECONDS)

    def _watch(self) -> int:
        while self.signal is None:
            for group in self.groups:
                if group.exit_status is not None:
                    raise LaunchError(f"{group.name} {ending(group.exit_status)}; everything is stopped")
            time.sleep(POLL_SECONDS)
        return 128 + self.signal

    def _stop(self) -> None:
        """The shim first, so that no edit meets a Triton that is gone."""
        seconds = {"shim": SHIM_STOP_SECONDS, "tritonserver": TRITON_STOP_SECONDS}
        for group in reversed(self.groups):
            group.stop(seconds[group.name] if self.signal is not None else FAILED_STOP_SECONDS)
            print(-group.pgid, file=self._reaper_input, flush=True)
        remove_shared_memory(self.shm_prefix)
        if self._reaper is not None:
            self._reaper_input.close()
            self._reaper.wait()


def refuse_taken_ports(settings: Settings) -> None:
    by_port: dict[int, str] = {}
    for name, port in settings.ports.items():
        if port in by_port:
            raise LaunchError(f"{name}={port} is the same port as {by_port[port]}: set one of them to another port")
        by_port[port] = name
        host = settings.host if name == "PORT" else "127.0.0.1"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError:
            raise LaunchError(f"HOST={host!r} is not an address of this machine") from None
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise LaunchError(
                    f"port {port} on {host} cannot be used ({error.strerror}): stop what listens there, or set {name}"
                ) from None


def demo_checkpoint() -> str:
    """The folder of the demo checkpoint, written on first use."""
    from standalone.checkpoint import write_checkpoint  # torch is imported only where a checkpoint is written

    folder = PROJECT / ".triton" / "checkpoints" / "qwen-image-edit-demo"
    if not (folder / "model_index.json").is_file():
        print("QWEN_MODEL_DIR is not set: writing a tiny demo checkpoint", flush=True)
        write_checkpoint(folder, "plus")
    print("DEMO CHECKPOINT: its weights are random, every picture it makes is NOISE. Set QWEN_MODEL_DIR to edit.")
    return str(folder)


def answers_200(url: str) -> bool:
    try:
        with _no_proxy.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ending(exit_status: int) -> str:
    if exit_status < 0:
        return f"was killed by {signal.Signals(-exit_status).name}"
    return f"ended with status {exit_status}"


def local_url(settings: Settings) -> str:
    """The shim's address as seen from this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def announce(settings: Settings, seconds: float) -> None:
    url = local_url(settings)
    key = ' -H "Authorization: Bearer $API_KEY"' if settings.api_key else ""
    print(
        f"""
Ready after {seconds:.0f} s.
  edits    {url}/v1/images/edits
  health   {url}/health  {url}/ready  {url}/metrics
  Triton   http://127.0.0.1:{settings.triton_http_port}  gRPC 127.0.0.1:{settings.triton_grpc_port}  \
http://127.0.0.1:{settings.triton_metrics_port}/metrics

Try it (writes edited.png):
curl -sS {url}/v1/images/edits{key} -F image=@{SAMPLE_PICTURE} -F prompt="make it black and white" -F size=256x256 \
| {SAVE_PICTURE} > edited.png
""",
        flush=True,
    )
