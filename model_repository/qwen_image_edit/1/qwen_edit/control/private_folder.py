"""Folders that nobody else can write to, however the one above them is shared."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotPrivate(PermissionError):
    """Somebody else could write there; the message is one line that names the folder."""


def private_folder(path: Path) -> Path:
    """`path`, made where it is missing; raises NotPrivate where it is a link, another user's, or open to others."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(f"{path} is not a folder, or a link to one: remove it")
    if found.st_uid != os.geteuid() or found.st_mode & WRITABLE_BY_OTHERS:
        raise NotPrivate(f"{path} is another user's, or others may write there: remove it")
    return path
