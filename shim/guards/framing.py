"""h11's connection, without what two readers of one request may take for different requests."""

from __future__ import annotations

import h11

BODY_END = b"\r\n\r\n"  # of a chunked body without trailer fields: the last chunk's line, and an empty one

Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class StrictConnection(h11.Connection):
    """A server's: h11 takes a bare LF for the end of a line, and of two lengths the chunked one (RFC 9112, 2.2, 6.1).

    Trailer fields, which nobody here reads, are refused too: in them lines could end in LF.
    """

    def __init__(self, head_bytes: int) -> None:
        super().__init__(h11.SERVER, head_bytes)
        self._received = b""  # what is not taken apart yet, and a little before
        self._chunked = False  # the body of the request that is being read

    def receive_data(self, data: bytes) -> None:
        self._received = self._received[-len(self.trailing_data[0]) - len(BODY_END) :] + data
        super().receive_data(data)

    def next_event(self) -> Event:
        if self.their_state is h11.IDLE and _has_bare_lf(self.trailing_data[0]):
            raise h11.RemoteProtocolError("a line of the head ends in LF without CR")
        event = super().next_event()
        if isinstance(event, h11.Request):
            if _has_two_lengths(event):
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
            self._chunked = b"transfer-encoding" in _names(event)
        if isinstance(event, h11.EndOfMessage) and self._chunked and (event.headers or not self._ended_well()):
            raise h11.RemoteProtocolError("a chunked body ends in trailer fields, or in LF without CR")
        return event

    def _ended_well(self) -> bool:
        taken_apart = self._received[: len(self._received) - len(self.trailing_data[0])]
        return taken_apart.endswith(BODY_END)


def _has_bare_lf(received: bytes) -> bool:
    head = received.partition(b"\r\n\r\n")[0]
    return head.count(b"\n") != head.count(b"\r\n")


def _has_two_lengths(request: h11.Request) -> bool:
    return {b"content-length", b"transfer-encoding"} <= _names(request)


def _names(request: h11.Request) -> set[bytes]:
    return {name for name, _ in request.headers}
