"""Clients that do not fit into the main environment, each in a folder of .tools/: python tests/clients/tools.py

A folder is made once, and again when what it is made of changes. A client that cannot be installed is reported and left
out, as its tests then say.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LISTS = Path(__file__).parent / "environments"
TOOLS = Path(__file__).resolve().parents[2] / ".tools"
STAMP = ".installed"
INSTALL_SECONDS = 600


def python_environment(name: str) -> Callable[[Path], None]:
    def install(folder: Path) -> None:
        output(sys.executable, "-m", "venv", folder)
        python = folder / "bin" / "python"
        output(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", LISTS / f"{name}.txt")

    return install


def node_environment(folder: Path) -> None:
    npm = shutil.which("npm")
    if not npm:
        raise FileNotFoundError("npm is not installed (Node 20 or newer is needed)")
    folder.mkdir(parents=True)
    shutil.copy(LISTS / "package.json", folder)
    output(npm, "install", "--prefix", folder, "--silent", "--no-package-lock", "--no-audit", "--no-fund")


# name → (what it is made of, how)
ENVIRONMENTS: dict[str, tuple[Path, Callable[[Path], None]]] = {
    "litellm": (LISTS / "litellm.txt", python_environment("litellm")),
    "schemathesis": (LISTS / "schemathesis.txt", python_environment("schemathesis")),
    "node": (LISTS / "package.json", node_environment),
}


def output(*command: str | Path) -> None:
    subprocess.run(
        command, check=True, timeout=INSTALL_SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def stamp(name: str) -> str:
    source = ENVIRONMENTS[name][0].read_bytes()
    return hashlib.sha256(source + sys.version.encode()).hexdigest()


def is_installed(name: str) -> bool:
    written = TOOLS / name / STAMP
    return written.is_file() and written.read_text() == stamp(name)


def install(name: str) -> None:
    folder = TOOLS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    ENVIRONMENTS[name][1](folder)
    (folder / STAMP).write_text(stamp(name))


def main() -> None:
    os.environ.pop("PYTHONPATH", None)
    for name in ENVIRONMENTS:
        if is_installed(name):
            continue
        started = time.monotonic()
        print(f"installing {TOOLS.name}/{name}", end=" ", flush=True)
        try:
            install(name)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stdout", "") or "").strip().splitlines()[-5:]
            print(f"failed: {error}", *said, sep="\n  ")
        else:
            print(f"took {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
