"""What the workers of a server that failed were at: kept of those that were at fault, for their successors to read."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path


def acquit(control_dir: Path, at_fault: Set[str]) -> None:
    """Of workers ended for another's fault nothing is kept; `at_fault` has process ids and names of instances."""
    for note in (control_dir / "at_work").glob("*.json"):
        worker = str(json.loads(note.read_text())["pid"])
        if not {worker, note.stem} & at_fault:
            note.unlink()
