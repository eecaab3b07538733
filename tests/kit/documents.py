"""The documents' commands, run as a reader would."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.kit.servers import PROJECT, Server, environment

README = (PROJECT / "README.md").read_text("utf-8")
FIRST_EDIT = 1  # of the README's commands


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def on(server: Server, text: str) -> str:
    """The text with the server's addresses."""
    addressed = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    return addressed.replace("127.0.0.1:8010", server.triton_http)


def run(server: Server, folder: Path, command: str) -> str:
    """What it prints."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", on(server, command)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
