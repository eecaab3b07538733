"""Edits that nobody waits for any more, by the id of their request.

The model does not see that a plain HTTP call was given up. So its caller can say so in a call of its own, which Triton
hands to any instance: the instances of one server tell each other through a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import time
from pathlib import Path

from qwen_edit.control.private_folder import private_folder

KEPT_SECONDS = 60.0  # for a call that overtakes the edit it is about
FORGET_SECONDS = 1.0  # between two looks at all of them
MARK = re.compile(r"[0-9a-f]{64}")


class Cancellations:
    """The folder is made again where a cleaner of temporary files has removed it."""

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        self._looked_at = -math.inf

    def add(self, request_id: str) -> None:
        self._forget_old()
        self._mark(request_id).touch()

    def take(self, request_id: str) -> bool:
        """Whether the request was cancelled; told once."""
        mark = self._mark(request_id)
        if not mark.exists():
            return False
        mark.unlink(missing_ok=True)
        return True

    def _mark(self, request_id: str) -> Path:
        return self._folder / hashlib.sha256(request_id.encode()).hexdigest()

    def _forget_old(self) -> None:
        folder = private_folder(self._folder)
        if time.monotonic() - self._looked_at < FORGET_SECONDS:
            return
        self._looked_at = time.monotonic()
        for mark in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another instance was faster
                if MARK.fullmatch(mark.name) and time.time() - mark.lstat().st_mtime > KEPT_SECONDS:
                    mark.unlink()
