"""h11's connection, without what may be read as two different requests, and without what holds up all others."""

from __future__ import annotations

import h11

BODY_END = b"\r\n\r\n"  # of a chunked body without trailer fields: the last chunk's line, and an empty one

MAX_HEADER_LINES = 256  # each of which is looked at again and again
# All other connections wait while the chunks that came at once are taken apart, one after the other.
FREE_CHUNKS = 512  # of a body
BYTES_PER_CHUNK = 64  # on average, beyond the free ones

Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class Refused(h11.RemoteProtocolError):
    """The message is for the client."""


class StrictConnection(h11.Connection):
    """A server's: h11 takes a bare LF for the end of a line, and of two lengths the chunked one (RFC 9112, 2.2, 6.1).

    Trailer fields, which nobody here reads, are refused too: in them lines could end in LF. So are heads of very many
    lines and bodies of very small chunks.
    """

    def __init__(self, head_bytes: int) -> None:
        super().__init__(h11.SERVER, head_bytes)
        self._received = b""  # what is not taken apart yet, and a little before
        self._chunked = False  # the body of the request that is being read
        self._chunks = self._bytes = 0  # of it

    def receive_data(self, data: bytes) -> None:
        self._received = self._received[-len(self.trailing_data[0]) - len(BODY_END) :] + data
        super().receive_data(data)

    def next_event(self) -> Event:
        if self.their_state is h11.IDLE:
            _check_head(self.trailing_data[0].partition(b"\r\n\r\n")[0])
        event = super().next_event()
        if isinstance(event, h11.Request):
            if _has_two_lengths(event):
                raise Refused("both Content-Length and Transfer-Encoding")
            self._chunked = b"transfer-encoding" in _names(event)
            self._chunks = self._bytes = 0
        if isinstance(event, h11.Data) and self._chunked:
            self._count(event)
        if isinstance(event, h11.EndOfMessage) and self._chunked and (event.headers or not self._ended_well()):
            raise Refused("a chunked body ends in trailer fields, or in LF without CR")
        return event

    def _count(self, data: h11.Data) -> None:
        self._chunks += data.chunk_start
        self._bytes += len(data.data)
        if self._chunks > FREE_CHUNKS + self._bytes // BYTES_PER_CHUNK:
            raise Refused(f"a body of {self._chunks} chunks with fewer than {BYTES_PER_CHUNK} bytes on average")

    def _ended_well(self) -> bool:
        taken_apart = self._received[: len(self._received) - len(self.trailing_data[0])]
        return taken_apart.endswith(BODY_END)


def _check_head(head: bytes) -> None:
    lines = head.count(b"\n")
    if lines > MAX_HEADER_LINES:
        raise Refused(f"a head of more than {MAX_HEADER_LINES} lines")
    if lines != head.count(b"\r\n"):
        raise Refused("a line of the head ends in LF without CR")


def _has_two_lengths(request: h11.Request) -> bool:
    return {b"content-length", b"transfer-encoding"} <= _names(request)


def _names(request: h11.Request) -> set[bytes]:
    return {name for name, _ in request.headers}
