"""h11's connection, without what two readers of one request may take for different requests."""

from __future__ import annotations

import h11

Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class StrictConnection(h11.Connection):
    """h11 takes a bare LF for the end of a line, and of two lengths the chunked one (RFC 9112, 2.2 and 6.1)."""

    def next_event(self) -> Event:
        if self.their_state is h11.IDLE and _has_bare_lf(self.trailing_data[0]):
            raise h11.RemoteProtocolError("a line of the head ends in LF without CR")
        event = super().next_event()
        if isinstance(event, h11.Request) and _has_two_lengths(event):
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event


def _has_bare_lf(received: bytes) -> bool:
    head = received.partition(b"\r\n\r\n")[0]
    return head.count(b"\n") != head.count(b"\r\n")


def _has_two_lengths(request: h11.Request) -> bool:
    names = {name for name, _ in request.headers}
    return {b"content-length", b"transfer-encoding"} <= names
