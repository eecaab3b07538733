"""The header of a picture file, of which only so much is read.

A reader of headers joins and lists what the author of the file has cut into pieces: a million empty ones take seconds,
and some kinds of them are copied with every further one.
"""

from __future__ import annotations

from typing import BinaryIO

MAX_READS = 2**14
MAX_BYTES = 2**24


class TooLong(Exception):
    """The header is too long."""


class Header:
    """As much of a file as Pillow's readers of headers need of its methods."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0
        self._bytes = 0
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """A read of everything is how WebP is opened, which has its header in front: its bytes are not counted."""
        self._reads += 1
        self._bytes += max(0, size)
        if self._reads > MAX_READS or self._bytes > MAX_BYTES:
            raise TooLong
        return self._file.read(size)
