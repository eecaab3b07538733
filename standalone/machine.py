"""What this machine lets its processes have: open files and shared memory."""

from __future__ import annotations

import logging
import resource
import shutil

from standalone.processes import SHM
from standalone.settings import Settings
from standalone.tritonserver import REQUEST_OVERHEAD_BYTES

log = logging.getLogger("image_edit_server")


def prepare(settings: Settings) -> None:
    """For the children too, which inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if shortage := shared_memory_shortage(settings, shutil.disk_usage(SHM).total):
        log.warning("%s", shortage)


def shared_memory_shortage(settings: Settings, size: int) -> str | None:
    """Why `size` bytes of it are too few for the largest request, which passes through it in one piece."""
    needed = settings.max_body_bytes + REQUEST_OVERHEAD_BYTES
    if size >= needed:
        return None
    return (
        f"{SHM} has {size} bytes, and MAX_BODY_BYTES={settings.max_body_bytes} needs {needed}: larger uploads fail; "
        "make it larger (docker run --shm-size, shm_size in compose), or lower MAX_BODY_BYTES"
    )
