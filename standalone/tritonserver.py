"""Finds a tritonserver, or unpacks one from a PyPI wheel, and says how to start it.

The wheel `nvidia-pytriton` carries a complete tritonserver 24.10 with its Python backend. Only that binary is used:
nothing of the wheel is imported.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from standalone import cuda
from standalone.errors import LaunchError
from standalone.processes import PROJECT
from standalone.settings import Settings

MODEL_NAME = "qwen_image_edit"
WHEEL = "nvidia-pytriton==0.7.0"
STUB = "backends/python/triton_python_backend_stub"  # in an installed server's folder
UNPACKED = PROJECT / ".triton" / "nvidia-pytriton-0.7.0"
# Bytes a Triton request carries beside the pictures of the largest HTTP body: tensor headers, prompt, latents.
REQUEST_OVERHEAD_BYTES = 16 * 2**20
# Whoever may call these can read and write this machine's shared memory, or change what the server logs.
RESTRICTED = ("model-repository", "shared-memory", "logging", "trace")
ACCESS_HEADER = "qwen-edit-key"


@dataclass(frozen=True)
class Access:
    """The key, generated at each start, to the parts of Triton's API that inference does not need."""

    key: str

    @property
    def headers(self) -> dict[str, str]:
        """For HTTP."""
        return {ACCESS_HEADER: self.key}

    @property
    def flags(self) -> list[str]:
        rule = f"{','.join(RESTRICTED)}:{ACCESS_HEADER}={self.key}"
        return [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"]


# With an arena for each of its many threads glibc keeps what uploads once took: hundreds of megabytes in a day.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}


@dataclass(frozen=True)
class TritonServer:
    """A tritonserver binary with what it needs to run on this interpreter."""

    binary: Path
    backends: Path | None  # None: the server's own
    library_path: tuple[str, ...]

    def command(self, settings: Settings, config_name: str, shm_prefix: str, access: Access) -> list[str]:
        """The command line; no model can be loaded over the network."""
        http_address = grpc_address = settings.triton_address
        if ":" in settings.triton_address:  # of IPv6, which Triton's two servers write differently
            http_address, grpc_address = f"ipv6:{settings.triton_address}", f"[{settings.triton_address}]"
        command = [
            str(self.binary),
            f"--model-repository={settings.model_repository}",
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--strict-readiness=true",
            "--exit-on-error=false",  # a server that stays can be asked why the model did not load
            "--exit-timeout-secs=2",
            f"--http-address={http_address}",
            f"--http-port={settings.triton_http_port}",
            f"--grpc-address={grpc_address}",
            f"--grpc-port={settings.triton_grpc_port}",
            f"--metrics-address={http_address}",
            f"--metrics-port={settings.triton_metrics_port}",
            "--allow-metrics=true",
            # A prefix of our own makes it safe to remove what a killed server leaves in /dev/shm.
            f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
            f"--log-info={'true' if settings.log_level == 'DEBUG' else 'false'}",
            *access.flags,
        ]
        if self.backends:
            command.append(f"--backend-directory={self.backends}")
        if config_name:
            command.append(f"--model-config-name={config_name}")
        # Pools for tensors on GPUs, which this model has none of: each takes 64 MB and a context of its own.
        if self._knows("--pinned-memory-pool-byte-size"):
            command.append("--pinned-memory-pool-byte-size=0")
        if self._knows("--cuda-memory-pool-byte-size"):
            command += [f"--cuda-memory-pool-byte-size={number}:0" for number in range(cuda.device_count())]
        if self._knows("--http-max-input-size"):
            command.append(f"--http-max-input-size={settings.max_body_bytes + REQUEST_OVERHEAD_BYTES}")
        return command

    def environment(self, environ: Mapping[str, str], settings: Settings, model_dir: str) -> dict[str, str]:
        """`environ` with the paths that make the Python backend use this interpreter and its packages."""
        env = dict(environ)
        env["QWEN_MODEL_DIR"] = model_dir
        env["LOG_LEVEL"] = settings.log_level
        env = MALLOC | env
        # The backend's stub takes the packages of the first python3 on PATH, behind those that PYTHONPATH names: of an
        # installed server it stays as it is, since an image has its packages there.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), *_entries(env.get("PATH"))])
        if self.backends:
            env["PYTHONPATH"] = sysconfig.get_path("purelib")
        return self._with_libraries(env)

    def _with_libraries(self, environ: Mapping[str, str]) -> dict[str, str]:
        entries = [*self.library_path, *_entries(environ.get("LD_LIBRARY_PATH"))]
        return {**environ, "LD_LIBRARY_PATH": os.pathsep.join(entries)}

    def _knows(self, flag: str) -> bool:
        env = self._with_libraries(os.environ)
        shown = subprocess.run([str(self.binary), "--help"], env=env, capture_output=True, text=True, check=False)
        return flag in shown.stdout + shown.stderr


def find() -> TritonServer:
    """A tritonserver on PATH, else the one of the wheel, unpacked into `.triton/` on first use."""
    installed = shutil.which("tritonserver")
    if installed:
        return TritonServer(binary=Path(installed), backends=None, library_path=())
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    libpython = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")) if shared else None
    refuse_unsupported(platform.system(), platform.machine(), libpython)
    if not UNPACKED.is_dir():
        _unpack()
    return TritonServer(
        binary=UNPACKED / "pytriton/tritonserver/bin/tritonserver",
        backends=python_backend(),
        # The interpreter's own libpython must come first: with another one the stub dies on a missing symbol.
        library_path=(sysconfig.get_config_var("LIBDIR"), str(UNPACKED / "nvidia_pytriton.libs")),
    )


def config_name(settings: Settings, cuda_devices: int) -> str:
    """This machine's instance configuration under `configs/`; empty means `config.pbtxt`, one instance per GPU."""
    replicas, device_map = settings.gpus_per_instance > 1, settings.device_map
    option = f"GPUS_PER_INSTANCE={settings.gpus_per_instance}" if replicas else f"DEVICE_MAP={device_map}"
    if replicas and device_map in ("cpu", "balanced"):
        raise LaunchError(f"{option}: DEVICE_MAP={device_map} does not go with it; unset one")
    if device_map == "cpu" or not (device_map or replicas or cuda_devices):
        return "cpu"
    if cuda_devices == 0:
        otherwise = "unset it" if replicas else "set DEVICE_MAP=cpu"
        raise LaunchError(f"{option}: no CUDA device was found; install the NVIDIA driver, or {otherwise}")
    # An instance of several GPUs has all that its server sees.
    return "balanced" if replicas or device_map == "balanced" else ""


def model_is_loaded(index: list[dict[str, str]], binary: Path) -> bool:
    """By Triton's repository index; raises LaunchError with the model's own reason where loading failed."""
    model = next((entry for entry in index if entry["name"] == MODEL_NAME), {"reason": "the repository lacks it"})
    state = model.get("state")
    if state in ("READY", "LOADING"):
        return state == "READY"
    # "Internal: TritonModelException: <what model.py says>", then an empty line and where it was raised
    reason = model.get("reason", "").strip().split("\n", 1)[0]
    reason = reason.removeprefix("Internal: ").removeprefix("TritonModelException: ")
    if reason.startswith(("ModuleNotFoundError", "ImportError")):
        reason += _other_python(binary)
    raise LaunchError(f"the model {MODEL_NAME} could not be loaded: {reason or 'Triton gives no reason'}")


def _other_python(binary: Path) -> str:
    """Of an installed server whose workers are not of this interpreter's version, as its packages are."""
    stub, own = binary.resolve().parents[1] / STUB, f"{sys.version_info.major}.{sys.version_info.minor}"
    linked = re.search(rb"libpython(3\.\d+)", stub.read_bytes()) if stub.is_file() else None
    theirs = linked[1].decode() if linked else own
    return "" if theirs == own else f" ({stub} is of Python {theirs}, the packages are of Python {own})"


def _entries(path: str | None) -> list[str]:
    return [entry for entry in (path or "").split(os.pathsep) if entry]


def refuse_unsupported(system: str, machine: str, libpython: Path | None) -> None:
    """`libpython`: the shared one of this Python; None where it was built without."""
    if (system, machine) != ("Linux", "x86_64"):
        raise LaunchError(
            f"no tritonserver on PATH, and the wheel that carries one runs on Linux x86-64 only, not on {system} "
            f"{machine}: use the Docker images, or install tritonserver"
        )
    if libpython is None:
        raise LaunchError(
            f"{sys.executable} has no shared libpython, which Triton's Python backend loads: use a Python built with "
            "--enable-shared (Debian's and Ubuntu's python3 are; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)"
        )
    if not libpython.exists():
        package = libpython.name.partition(".so")[0]
        raise LaunchError(
            f"{libpython} is not there, which Triton's Python backend loads: on Debian and Ubuntu, "
            f"apt install {package}"
        )


def _unpack() -> None:
    print(f"unpacking tritonserver from the wheel {WHEEL} into {UNPACKED.relative_to(PROJECT)}", flush=True)
    partial = UNPACKED.with_name(UNPACKED.name + f".{os.getpid()}.partial")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*pip, "--no-deps", "--target", str(partial), WHEEL], check=False)
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise LaunchError(f"pip could not install {WHEEL} (its message is above): check the network, or install Triton")
    try:
        partial.rename(UNPACKED)
    except OSError:  # another launcher was faster
        shutil.rmtree(partial, ignore_errors=True)


def python_backend() -> Path:
    """A backend directory that holds the Python backend with the stub of this interpreter's version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = UNPACKED / "pytriton/tritonserver"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        offered = ", ".join(sorted((p.name for p in stub.parents[1].iterdir()), key=lambda v: int(v.split(".")[1])))
        raise LaunchError(f"{WHEEL} has no Python-backend stub for Python {version}, only for {offered}")
    backends = UNPACKED / f"backends-{version}"
    python = backends / "python"
    if not (python / stub.name).is_file():
        partial = backends.with_name(f"{backends.name}.{os.getpid()}.partial")
        shutil.copytree(server / "backends/python", partial / "python")
        shutil.copy2(stub, partial / "python")
        try:
            partial.rename(backends)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
    return backends
