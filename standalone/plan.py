"""How the tritonservers of one machine are started: one over all devices, or one for each GPU or each few of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from standalone import cuda
from standalone.errors import LaunchError
from standalone.private_folder import private_folder
from standalone.settings import Settings
from standalone.tritonserver import Access, TritonServer, config_name


@dataclass(frozen=True)
class Plan:
    """One tritonserver."""

    name: str
    settings: Settings  # with this server's ports
    command: tuple[str, ...]
    environment: dict[str, str]
    shm_prefix: str
    control_dir: Path  # through which supervisor and engines talk
    access: Access


def plan(
    settings: Settings,
    triton: TritonServer,
    *,
    model_dir: str,
    shm_prefix: str,
    folder: Path,
    environ: Mapping[str, str] = os.environ,
    flags: Sequence[str] = (),
) -> list[Plan]:
    """`folder` is empty, and for what supervisor and engines tell each other; `flags` reach tritonserver last."""
    devices = visible_devices(settings, environ)
    access = Access(secrets.token_hex(16))
    plans = []
    for number, device in enumerate(devices):
        own = settings.of_server(number)
        name = "tritonserver" if len(devices) == 1 else f"tritonserver-{number + 1}"
        prefix, control_dir = f"{shm_prefix}{number}_", private_folder(folder / str(number))
        env = triton.environment(environ, own, model_dir)
        env["CONTROL_DIR"] = str(control_dir)
        if device is not None:
            env["CUDA_VISIBLE_DEVICES"] = device
        command = triton.command(own, config_name(own, cuda.device_count()), prefix, access)
        plans.append(Plan(name, own, (*command, *flags), env, prefix, control_dir, access))
    return plans


def visible_devices(settings: Settings, environ: Mapping[str, str]) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of every server; None: as it is."""
    count, each = cuda.device_count(), settings.gpus_per_instance
    if count % each:
        raise LaunchError(
            f"GPUS_PER_INSTANCE={each}: {count} GPUs cannot be divided by it; CUDA_VISIBLE_DEVICES chooses"
        )
    if not settings.one_server_per_gpu:
        if 1 < each < count:
            problem = f"{count} GPUs were found, and a server has one instance of {each}"
            raise LaunchError(
                f"GPUS_PER_INSTANCE={each}: {problem}: set ONE_SERVER_PER_GPU=true, or CUDA_VISIBLE_DEVICES"
            )
        return [None]
    if count == 0:
        raise LaunchError("ONE_SERVER_PER_GPU=1: no CUDA device was found; install the NVIDIA driver, or unset it")
    if settings.device_map not in ("", "cuda"):
        raise LaunchError(f"ONE_SERVER_PER_GPU=1: DEVICE_MAP={settings.device_map} does not go with it; unset one")
    visible = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    devices = visible[:count] or [str(number) for number in range(count)]
    return [",".join(devices[first : first + each]) for first in range(0, count, each)]
