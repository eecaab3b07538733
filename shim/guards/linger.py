"""A connection's end that does not destroy the answer on its way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any


class LingeringTransport:
    """asyncio's, whose close() lingers where the client is still sending: ends our half alone, until close_now().

    Of a closed socket the system resets what comes, and the client's system then drops the answer that nobody has read.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool], begin: Callable[[], None]) -> None:
        self._transport = transport
        self._is_sending = is_sending
        self._begin = begin
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self._is_sending():
            self.linger()
        elif not self.lingers:
            self.close_now()

    def linger(self) -> None:
        """What else comes is to be read and thrown away, from `begin` on."""
        if self.is_closing():
            return
        self.lingers = True
        with contextlib.suppress(OSError):  # who has gone away meanwhile is heard of when reading
            self._transport.write_eof()
        self._transport.resume_reading()
        self._begin()

    def close_now(self) -> None:
        self._transport.close()
