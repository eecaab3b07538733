"""The launcher's settings: environment → one frozen dataclass."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from standalone.processes import PROJECT
from standalone.settings_grammar import Cast, boolean, choice, integer, number, read, setting, text, verbatim

DRAIN_SECONDS = 60.0
PORTS_APART = 10  # between the servers of one machine


def _folder(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_dir():
        raise ValueError
    return path.resolve()


FOLDER = Cast("an existing folder", _folder)
PORT = integer(1, 65535)


@dataclass(frozen=True)
class Settings:
    model_dir: str = setting(
        "QWEN_MODEL_DIR",
        text,
        "",
        "The checkpoint: a folder with a `model_index.json`, or a Hub id. Containers take an absolute path only. "
        "Empty: `make serve` serves the demo checkpoint.",
    )
    device_map: str = setting(
        "DEVICE_MAP",
        choice("cuda", "balanced", "cpu"),
        "",
        "`balanced`: one pipeline, spread over all GPUs. Empty: one pipeline per GPU, or one on the CPU without a GPU.",
    )
    gpus_per_instance: int = setting(
        "GPUS_PER_INSTANCE", integer(1, 8), 1,
        "GPUs of one instance, each with a transformer, to which the rows of a step are dealt, two of an edit "
        "with guidance. Not together with `OFFLOAD`, `DEVICE_MAP=balanced` or Qwen-Image-2.1.",
    )  # fmt: skip
    host: str = setting(
        "HOST",
        text,
        "127.0.0.1",
        "Address on which the shim listens: 0.0.0.0 in the container, where `HOST_ADDRESS` decides who can reach it.",
    )
    port: int = setting("PORT", PORT, 8000, "Port of the shim.")
    api_key: str = setting(
        "API_KEY",
        verbatim,
        "",
        "The key that clients have to send, as Bearer, Basic or `api-key` header. Empty: no authentication.",
        secret=True,
    )
    api_key_file: str = setting(
        "API_KEY_FILE",
        text,
        "",
        "A file of further keys, a line `NAME: KEY` for each; a name may have several. It is read again when it "
        "changes, and the name is what logs and metrics tell.",
    )
    allow_no_auth: bool = setting(
        "ALLOW_NO_AUTH",
        boolean,
        False,
        "true: `make serve` starts without `API_KEY` although `HOST` is not 127.0.0.1, ::1 or localhost.",
    )
    log_level: str = setting(
        "LOG_LEVEL",
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
        "The least severe messages that are logged.",
    )
    max_body_bytes: int = setting(
        "MAX_BODY_BYTES",
        integer(1, 2**40),
        100 * 2**20,
        "Bytes of the largest HTTP request body. Triton's own limit is set 16 MiB higher.",
    )
    drain_seconds: float | None = setting(
        "DRAIN_SECONDS",
        number(0, 86_400),
        None,
        "How long edits in progress may take to finish after SIGTERM. Empty: 60 for a Triton, whose edits go on "
        "elsewhere, and for the shim, whose edits end with it, 10 more than `REQUEST_TIMEOUT_SECONDS`. "
        "`stop_grace_period` in docker-compose.yml has to be longer. Under `make serve` they get 2 seconds.",
    )
    one_server_per_gpu: bool = setting(
        "ONE_SERVER_PER_GPU",
        boolean,
        False,
        "true: one tritonserver per GPU, or per `GPUS_PER_INSTANCE` of them, each with ports 10 above the last, so "
        "that a failure on one GPU leaves the others serving. `make serve` then needs HAProxy.",
    )
    worker_stall_seconds: float = setting(
        "WORKER_STALL_SECONDS",
        number(1, 86_400),
        60.0,
        "An engine that has edits but completes no step for this long, or for 20 of its own steps if that is longer, "
        "is restarted.",
    )
    max_failures: int = setting(
        "MAX_FAILURES",
        integer(1, 1_000_000),
        5,
        "Failures within `FAILURE_WINDOW_MINUTES` after which the supervisor gives up. `make serve` tries again every "
        "5 minutes instead.",
    )
    failure_window_minutes: int = setting(
        "FAILURE_WINDOW_MINUTES",
        integer(1, 10_000),
        30,
        "Minutes within which `MAX_FAILURES` failures are too many.",
    )
    triton_address: str = setting(
        "TRITON_ADDRESS",
        text,
        "127.0.0.1",
        "Address on which Triton and the supervisor's `/healthz` listen: 0.0.0.0 in the container.",
    )
    triton_http_port: int = setting("TRITON_HTTP_PORT", PORT, 8010, "Port of Triton's HTTP API.")
    triton_grpc_port: int = setting("TRITON_GRPC_PORT", PORT, 8011, "Port of Triton's gRPC API.")
    triton_metrics_port: int = setting("TRITON_METRICS_PORT", PORT, 8012, "Port of Triton's Prometheus metrics.")
    supervisor_port: int = setting("SUPERVISOR_PORT", PORT, 8013, "Port of the supervisor's `/healthz`.")
    balancer_port: int = setting(
        "BALANCER_PORT",
        PORT,
        8009,
        "Port on 127.0.0.1 of the HAProxy that the launcher puts in front of several servers.",
    )
    model_repository: Path = setting(
        "MODEL_REPOSITORY",
        FOLDER,
        PROJECT / "model_repository",
        "Triton's model repository. Empty: `model_repository/` beside the launcher.",
        computed=True,
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return read(cls, environ)

    @property
    def drains_for(self) -> float:
        """Seconds."""
        return DRAIN_SECONDS if self.drain_seconds is None else self.drain_seconds

    @property
    def server_ports(self) -> dict[str, int]:
        """Of one supervised tritonserver."""
        return {
            "TRITON_HTTP_PORT": self.triton_http_port,
            "TRITON_GRPC_PORT": self.triton_grpc_port,
            "TRITON_METRICS_PORT": self.triton_metrics_port,
            "SUPERVISOR_PORT": self.supervisor_port,
        }

    @property
    def triton_url(self) -> str:
        """As seen from this machine."""
        return f"http://{url_host(self.triton_address)}:{self.triton_http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{url_host(self.triton_address)}:{self.triton_metrics_port}/metrics"

    @property
    def health_url(self) -> str:
        return f"http://{url_host(self.triton_address)}:{self.supervisor_port}/healthz"

    @property
    def shim_url(self) -> str:
        return f"http://{url_host(self.host)}:{self.port}"

    def of_server(self, number: int) -> Self:
        """The settings of one of several servers, whose ports lie apart; `number` counts from 0."""
        apart = number * PORTS_APART
        return replace(
            self,
            triton_http_port=self.triton_http_port + apart,
            triton_grpc_port=self.triton_grpc_port + apart,
            triton_metrics_port=self.triton_metrics_port + apart,
            supervisor_port=self.supervisor_port + apart,
        )


def url_host(address: str) -> str:
    """The host of a URL by which this machine reaches what listens on `address`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{host}]" if ":" in host else host
