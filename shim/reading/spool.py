"""The room for uploads: bodies and pictures that requests keep, mostly on disk, until they are done."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import contextmanager

from shim.errors import ModelNotReady

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


class Spool:
    """One budget of bytes for all requests of the process; a request that is alone may have more."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.held

    def check(self, more: int, others: int) -> None:
        if others and self.held + more > self._budget:
            raise ModelNotReady("The server has all the uploads that it can hold; try again later")


class Share:
    """One request's."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.held = 0

    def check(self, size: int) -> None:
        """Raises ModelNotReady where so much more does not fit."""
        self._spool.check(size, self._spool.held - self.held)

    def add(self, size: int) -> None:
        """Raises ModelNotReady where so much more does not fit."""
        self.check(size)
        self._spool.held += size
        self.held += size

    async def filled(self, chunks: AsyncIterable[bytes], declared: int, copies: int) -> AsyncGenerator[bytes, None]:
        """The chunks of a body that is kept `copies` times.

        Where the `declared` bytes do not fit, none is read. Room is taken for what has come alone, as it costs nothing
        to declare.
        """
        self.check(copies * declared)
        async for chunk in chunks:
            self.add(copies * len(chunk))
            yield chunk


@contextmanager
def refused_when_full() -> Iterator[None]:
    """What the system has no room for may fit later."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ModelNotReady(f"The server cannot store the upload ({error.strerror}); try again later") from error
