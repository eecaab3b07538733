"""The release before this one, from the history, to be run beside it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tests.kit.servers import PROJECT

PREVIOUS = "dea197eebc53"  # 2.0.0


def previous(folder: Path) -> Path | None:
    """Its files, below `folder`, with the tritonserver of this copy; None in a copy without its history."""
    archived = subprocess.run(["git", "archive", PREVIOUS], cwd=PROJECT, capture_output=True)
    if archived.returncode:
        return None
    release = folder / "previous"
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as files:
        files.extractall(release, filter="data")
    (release / ".triton").symlink_to(PROJECT / ".triton")
    return release
