"""Both Dockerfiles are built and run, and an edit goes through: make test-images

It takes minutes and gigabytes, so it is not in `make test`, whose pattern of names this file avoids. What it cannot
show is a GPU, and the bases of the real images: docs/kubernetes.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DATA, missing
from tests.kit.answers import pictures, same
from tests.kit.compose import Service, compose_services, environment_of, interpolate
from tests.kit.images import FOR_THE_BUILD, PIP_CONFIG, Buildah, Network, build_bases, output, pip_mounts, process_in
from tests.kit.servers import PROJECT, Server, run, serve
from tests.kit.tools import BUILDERS, missing_packages

START_SECONDS = 300
EDIT = {"prompt": "a cat in the snow", "size": "96x96", "seed": "1", "steps": "4"}


@dataclass
class Container:
    """A service of docker-compose.yml: its image's command in a container that buildah made."""

    buildah: Buildah
    network: Network
    name: str
    service: Service
    server: Server

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """In it, as its user."""
        inside = self.network.inside(*self.buildah.command("run", self.name, "--", *command))
        return subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False)

    def wait_healthy(self, check: list[str]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (done := self.run(*check)).returncode:
            assert self.server.process.poll() is None, self.server.log
            assert time.monotonic() < deadline, f"{done.stdout}{done.stderr}\n{self.server.log}"
            time.sleep(1.0)

    def status(self) -> dict[str, str]:
        """Of its first process, as the kernel has it."""
        lines = Path(f"/proc/{process_in(self.server).pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """With both images, `triton` and `shim`; what it stored is removed at the end."""
    if os.geteuid():
        missing("images are built by root: debootstrap and buildah's chroot isolation ask for it")
    if lacking := missing_packages(BUILDERS):
        missing(f"{', '.join(lacking)} not installed: python -m tests.kit.tools images, as root")
    folder = tmp_path_factory.mktemp("images")
    buildah = Buildah(folder)
    try:
        build_bases(buildah, folder)
        for image in ("triton", "shim"):
            started = time.monotonic()
            buildah.build(PROJECT / f"Dockerfile.{image}", PROJECT, image, *pip_mounts(folder))
            print(f"{image}: {buildah.size(image)}, built in {time.monotonic() - started:.0f} s")
        yield buildah
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@contextmanager
def start(
    buildah: Buildah, network: Network, name: str, service: Service, environ: Mapping[str, str]
) -> Iterator[Container]:
    """With compose's environment, mounts and privileges, and the image's own user, entry point and command."""
    configuration = buildah.configuration(name)
    container = buildah("from", "--pull-never", "--add-host", "triton:127.0.0.1", "--shm-size", "2g", name)
    given = [word for each in environment_of(service, environ).items() for word in ("--env", "=".join(each))]
    mounts = [
        word
        for volume in service.get("volumes", [])
        if isinstance(volume, dict)
        for word in (
            "--volume",
            f"{interpolate(volume['source'], environ)}:{interpolate(volume['target'], environ)}:ro",
        )
    ]
    drops = [word for capability in service["cap_drop"] for word in ("--cap-drop", capability)]
    command = [*(configuration.get("Entrypoint") or []), *configuration["Cmd"]]
    running = buildah.command("run", *given, *mounts, *drops, container, "--", *command)
    with run(network.inside("setpriv", "--no-new-privs", *running), os.environ, 0) as server:
        yield Container(buildah, network, container, service, server)


@pytest.fixture(scope="module")
def containers(buildah: Buildah, network: Network, sensitive: Callable[[str], Path]) -> Iterator[dict[str, Container]]:
    """Both services as compose starts them, one healthy before the other starts."""
    environ = {"QWEN_MODEL_DIR": str(sensitive("plus")), "REFERENCE_AREA": "4096", "HOST_ADDRESS": "127.0.0.1"}
    services = compose_services()
    with ExitStack() as stack:
        started: dict[str, Container] = {}
        for name in ("triton", "shim"):
            started[name] = stack.enter_context(start(buildah, network, name, services[name], environ))
            started[name].wait_healthy(services[name]["healthcheck"]["test"][1:])
        yield started


@pytest.mark.parametrize(("name", "user"), [("triton", 1000), ("shim", 10001)])
def test_each_runs_as_its_own_user_without_any_privilege(
    name: str, user: int, containers: dict[str, Container]
) -> None:
    status = containers[name].status()
    assert status["Uid"].split() == [str(user)] * 4
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_the_compilers_place_can_be_written(containers: dict[str, Container]) -> None:
    written = 'mkdir -p "$TORCHINDUCTOR_CACHE_DIR" "$TRITON_CACHE_DIR" && touch "$TORCHINDUCTOR_CACHE_DIR/file"'
    done = containers["triton"].run("sh", "-c", written)
    assert done.returncode == 0, done.stderr


def test_the_shims_own_health_check_passes(buildah: Buildah, containers: dict[str, Container]) -> None:
    kind, *check = buildah.configuration("shim")["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert containers["shim"].run(*check).returncode == 0


@pytest.mark.parametrize("image", ["triton", "shim"])
def test_nothing_of_the_machine_that_built_it_is_left(image: str, buildah: Buildah) -> None:
    container = buildah("from", "--pull-never", image)
    root = buildah.root(container)
    left = [path for path in (root / FOR_THE_BUILD[1:]).rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []
    assert (root / PIP_CONFIG[1:]).stat().st_size == 0
    assert not [variable for variable in buildah.configuration(image)["Env"] if variable.startswith("PIP_")]
    buildah("rm", container)


def test_an_edit_goes_through_both(
    containers: dict[str, Container], network: Network, sensitive: Callable[[str], Path]
) -> None:
    form = [word for field in EDIT.items() for word in ("-F", "=".join(field))]
    request = ["curl", "-sS", "-F", f"image=@{DATA / 'cat.jpg'}", *form]
    answer: Any = json.loads(output(network.inside(*request, "http://127.0.0.1:8000/v1/images/edits")))
    assert "data" in answer, f"{answer}\n{containers['triton'].server.log}"

    with serve(sensitive("plus"), REFERENCE_AREA="4096") as tree:
        expected: Any = json.loads(output([*request, f"{tree.url}/v1/images/edits"]))
    assert same(pictures(answer), pictures(expected))


@pytest.mark.parametrize("name", ["shim", "triton"])
def test_each_ends_well_when_it_is_asked_to(name: str, containers: dict[str, Container]) -> None:
    server = containers[name].server
    process_in(server).terminate()
    server.wait_for(lambda: server.process.poll() is not None, seconds=30)
    assert server.process.returncode == 0, server.log
