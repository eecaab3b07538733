"""A device that several threads compute on, and that one of them has to itself where memory ran out."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from qwen_edit.device_errors import is_out_of_memory

log = logging.getLogger("image_edit_server")

Made = TypeVar("Made")


class SharedDevice:
    """`free_memory` is called by whoever has it alone."""

    def __init__(self, free_memory: Callable[[], None]) -> None:
        self._free_memory = free_memory
        self._changed = threading.Condition()  # guards the three
        self._inside = 0
        self._waiting = 0
        self._owner: int | None = None  # thread that has it alone, or waits until the others are out

    @property
    def awaited(self) -> bool:
        """Whether anybody can do nothing until others are out."""
        return self._waiting > 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Around work that others may do theirs beside."""
        if self._owner == threading.get_ident():
            yield
            return
        with self._changed:
            self._wait_for(lambda: self._owner is None)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Not within `shared`. Whether somebody else had to end first; whoever comes now waits."""
        if self._owner == threading.get_ident():
            yield False
            return
        with self._changed:
            self._wait_for(lambda: self._owner is None)
            self._owner = threading.get_ident()
            company = self._inside > 0
            self._wait_for(lambda: self._inside == 0)
        try:
            yield company
        finally:
            with self._changed:
                self._owner = None
                self._changed.notify_all()

    @contextlib.contextmanager
    def freed(self) -> Iterator[None]:
        """Around work that ran out of memory: alone, and with freed memory."""
        with self.alone():
            self._free_memory()
            yield

    def made(self, work: Callable[[], Made]) -> Made:
        """`work()`, tried once more alone and with freed memory where it ran out."""
        try:
            with self.shared():
                return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("out of memory while encoding or decoding: freeing the cache")
        # Not in the `except`: the error's traceback keeps all that the failed work has allocated.
        with self.freed():
            return work()

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        self._waiting += 1
        self._changed.wait_for(condition)
        self._waiting -= 1
