"""Images built from the Dockerfiles and run without Docker or a registry, by Debian's buildah over stand-in bases.

For root alone, as debootstrap and buildah's chroot isolation are. All that they write lies below one folder.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from standalone.tritonserver import UNPACKED, find, python_backend
from tests.kit.servers import PROJECT, Server

STAND_INS = PROJECT / "tests" / "images"
BUILD_SECONDS = 1800
FOR_THE_BUILD = "/run/build"  # where what pip needs of this machine is mounted
PIP_CONFIG = "/etc/pip.conf"


class Buildah:
    def __init__(self, folder: Path) -> None:
        at = ("--root", f"{folder}/storage", "--runroot", f"{folder}/run", "--storage-driver", "vfs")
        self._command = ["env", "BUILDAH_ISOLATION=chroot", f"TMPDIR={folder}", "buildah", *at]

    def command(self, *arguments: str) -> list[str]:
        return [*self._command, *arguments]

    def __call__(self, *arguments: str) -> str:
        return output(self.command(*arguments))

    def build(self, dockerfile: Path, context: Path, tag: str, *mounts: str) -> None:
        volumes = [word for mount in mounts for word in ("--volume", mount)]
        # Of the two formats Docker's has health checks.
        kind = ("--format", "docker", "--pull-never", "--layers=false")
        self("build", *kind, *volumes, "--file", str(dockerfile), "--tag", tag, str(context))

    def configuration(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]
        return found

    def size(self, image: str) -> str:
        """As buildah words it."""
        return self("images", "--noheading", "--format", "{{.Size}}", image)

    def root(self, container: str) -> Path:
        """Its file system, as this machine sees it."""
        return Path(self("mount", container))


class Network:
    """A network namespace of its own, whose ports are therefore all free: the containers' one host."""

    def __init__(self) -> None:
        up = "ip link set lo up && echo up && exec sleep infinity"
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", up], stdout=subprocess.PIPE)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"up\n"

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *command]

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout.strip()


def build_bases(buildah: Buildah, folder: Path) -> None:
    """Under the names that the Dockerfiles ask for: Debian with its Python 3.11, and the tritonserver of the tests."""
    debian, server = folder / "debian", folder / "server"
    with_pip = "--include=python3-pip,python-is-python3,ca-certificates"
    output(["debootstrap", "--variant=minbase", with_pip, "bookworm", str(debian)])
    buildah.build(STAND_INS / "Dockerfile.python", debian, "docker.io/library/python:3.12-slim")
    shutil.rmtree(debian)
    shutil.copytree(STAND_INS, server)
    lay_out_tritonserver(server / "tritonserver")
    buildah.build(STAND_INS / "Dockerfile.tritonserver", server, "nvcr.io/nvidia/tritonserver:26.11-py3")
    shutil.rmtree(server)


def lay_out_tritonserver(folder: Path) -> None:
    """As in NVIDIA's image; the wheel has it elsewhere."""
    assert find().binary.is_relative_to(UNPACKED), "a tritonserver on PATH is not copied: its libraries are unknown"
    shutil.copytree(UNPACKED / "pytriton" / "tritonserver" / "bin", folder / "bin")
    shutil.copytree(UNPACKED / "nvidia_pytriton.libs", folder / "lib")
    shutil.copytree(python_backend() / "python", folder / "backends" / "python")


def pip_mounts(folder: Path) -> list[str]:
    """This machine's pip configuration for a container that builds: a mount of it, and of each path that it names."""
    said = output([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    mounts: dict[str, str] = {}

    def mounted(word: str) -> str:
        url = word.startswith("file://")
        path = Path(word.removeprefix("file://"))
        if not path.is_absolute() or not path.exists():
            return word
        # The files of an index may lie beside it.
        source, rest = (path.parent, f"/{path.name}") if url else (path, "")
        target = mounts.setdefault(str(source), f"{FOR_THE_BUILD}/{len(mounts)}")
        return f"{'file://' if url else ''}{target}{rest}"

    options: dict[str, str] = {}
    for line in sorted(said, key=lambda line: line.startswith(":env:")):  # the environment has the last word
        name, _, value = line.partition("=")
        options[name.rpartition(".")[2]] = " ".join(map(mounted, str(ast.literal_eval(value)).split()))
    configuration = folder / "pip.conf"
    configuration.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in options.items()), ""]))
    mounts[str(configuration)] = PIP_CONFIG
    return [f"{source}:{target}:ro" for source, target in mounts.items()]


def process_in(server: Server) -> psutil.Process:
    """A running container's first process, which is asked to end when the container is: below buildah's own."""
    process = psutil.Process(server.process.pid)
    while "buildah" in process.name():
        (process,) = process.children()
    return process
