"""uvicorn's HTTP/1.1 connection with ends in time: nobody holds one open by sending, or reading, next to nothing.

The body of a request that is being read has limits of its own, in `body_limit.py` and `deadline.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import uuid
from collections.abc import Callable
from typing import Any

import h11
from starlette.datastructures import Headers
from uvicorn.protocols.http.h11_impl import H11Protocol

from shim.dialect import dialect_of_headers
from shim.errors import InvalidInput, error_body
from shim.guards.descriptors import most_connections
from shim.guards.framing import Refused, StrictConnection
from shim.guards.linger import LingeringTransport
from shim.limits import HEADER_BYTES, MIN_BODY_RATE

HEAD_SECONDS = 20.0  # for the head of a request, from its first byte or the connection's opening
LINGER_SECONDS = 10.0  # for the rest of a body that is not wanted; closing at once would destroy the answer on its way
READ_BYTES = 2**16  # at once: others wait while a body of very many pieces is taken apart
TCP_NOTSENT_LOWAT = 25  # Linux's; Python's name for it is younger than 3.11
UNSENT_BYTES = 2**17  # in the system, beside what is on its way: so it is soon seen what a reader takes
STALL_SECONDS = 60.0  # for a reader of an answer, and a second more for every MIN_BODY_RATE bytes that it takes


class BoundedProtocol(H11Protocol):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.reading = Timer(self.loop, self.timeout_keep_alive_handler)  # of a head, or of an unwanted body
        self._writing = Timer(self.loop, self.abort)
        self._reader = Reader(self.loop)
        self.conn = StrictConnection(HEADER_BYTES)
        self.sending_since: float | None = None  # of who is sending a body, the moment at which it began

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        with contextlib.suppress(OSError, AttributeError):  # another kind of socket
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._ending = LingeringTransport(transport, self._is_sent_to, self._linger)
        super().connection_made(self._ending)  # type: ignore[arg-type]
        if len(self.connections) > most_connections():
            self._make_room()
        self.reading.start(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reading.stop()
        self._writing.stop()
        self._unset_keepalive_if_required()  # where a client has reset, uvicorn leaves its timer, which holds all this
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ending.lingers:
            return
        super().data_received(data)
        if not self.transport.is_closing():
            self._time_the_head()
        if self.conn.their_state is not h11.SEND_BODY:
            self.sending_since = None
        elif self.sending_since is None:
            self.sending_since = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._reader.seconds = STALL_SECONDS
        if self.transport.is_closing():
            self._writing.start(STALL_SECONDS)
        elif self.conn.their_state is h11.SEND_BODY and self._is_answered():
            self._unset_keepalive_if_required()
            self.reading.start(LINGER_SECONDS)
        else:
            self._time_the_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.start(self._reader.waited_for(self.transport.get_write_buffer_size()))

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing.stop()
        self._reader.took_all_but(self.transport.get_write_buffer_size())

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self.conn.send(h11.ConnectionClosed())
        self._ending.close_now()
        self._writing.start(STALL_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Called where h11 has raised; what the application may be about to answer has no place any more."""
        if self.cycle is not None and not self._is_answered():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._ending.linger()
            return
        body = json.dumps(self._refusal(sys.exception())).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-request-id", uuid.uuid4().hex),
        ]
        answering = h11.Connection(h11.SERVER)  # not ours, which sends no body where it has read HEAD
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body)):
            self.transport.write(answering.send(event))
        self._ending.linger()
        self._writing.start(STALL_SECONDS)

    def _refusal(self, error: BaseException | None) -> dict[str, Any]:
        head_is_too_long = getattr(error, "error_status_hint", None) == 431
        message = f"The request's head has more than {HEADER_BYTES} bytes" if head_is_too_long else "Not valid HTTP/1.1"
        if isinstance(error, Refused):
            message = f"{message}: {error}"
        in_a_body = self.cycle is not None and not self._is_answered()
        dialect = dialect_of_headers(Headers(raw=self.headers)) if in_a_body else "classic"
        return error_body(InvalidInput(message), dialect)

    def shutdown(self) -> None:
        if not self._ending.lingers:
            super().shutdown()

    def _is_sent_to(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    def _linger(self) -> None:
        self.reading.restart(LINGER_SECONDS)

    def _time_the_head(self) -> None:
        if not self._awaits_head():
            if not self._is_answered():
                self.reading.stop()
        elif self.conn.trailing_data[0]:
            self.reading.start(HEAD_SECONDS)
        else:
            self.reading.restart(self.timeout_keep_alive)

    def _awaits_head(self) -> bool:
        return self.conn.their_state is h11.IDLE and (self.cycle is None or self._is_answered())

    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    @property
    def silent_since(self) -> float | None:
        """The moment since which its client has kept us waiting, for a head or as the reader of an answer.

        What a reader took meanwhile gives time back.
        """
        unread = self._writing.since
        if unread is not None:
            unread += self._reader.took(self.transport.get_write_buffer_size()) / MIN_BODY_RATE
        return min((since for since in (self.reading.since, unread) if since is not None), default=None)

    def _make_room(self) -> None:
        """Ends the connection that has been silent for longest, else that which has been sending a body for longest.

        This one where all others wait for an answer.
        """
        others = [other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self]
        silent = [other for other in others if other.silent_since is not None]
        sending = [other for other in others if other.sending_since is not None]
        if silent:
            min(silent, key=lambda other: other.silent_since or 0.0).abort()
        else:
            min(sending, key=lambda other: other.sending_since or 0.0, default=self).abort()

    def abort(self) -> None:
        self.reading.stop()
        self._writing.stop()
        self.transport.abort()


class Reader:
    """How long an answer's reader may keep us waiting: a slow one uses up its time, a fast one gets it back."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.seconds = STALL_SECONDS
        self._since = 0.0
        self._bytes = 0

    def waited_for(self, unread: int) -> float:
        """From now on; the seconds that are left."""
        self._since, self._bytes = self._loop.time(), unread
        return self.seconds

    def took(self, unread: int) -> int:
        """Bytes, since it is waited for."""
        return max(0, self._bytes - unread)

    def took_all_but(self, unread: int) -> None:
        earned = (self._bytes - unread) / MIN_BODY_RATE
        self.seconds = min(STALL_SECONDS, self.seconds + earned - (self._loop.time() - self._since))


class Timer:
    """Calls once, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._handle: asyncio.TimerHandle | None = None
        self.since: float | None = None  # when it was started, as long as it runs

    @property
    def due(self) -> float | None:
        return self._handle.when() if self._handle else None

    def start(self, seconds: float) -> None:
        """No later than it was to call before."""
        if self.due is None or self._loop.time() + seconds < self.due:
            self.restart(seconds)

    def restart(self, seconds: float) -> None:
        self.stop()
        self.since = self._loop.time()
        self._handle = self._loop.call_later(seconds, self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = self.since = None

    def _ring(self) -> None:
        self._handle = self.since = None
        self._call()
