from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from shim.guards.linger import LingeringTransport


@pytest.mark.parametrize("sending", [True, False], ids=["sending", "silent"])
async def test_who_is_gone_already_is_let_go(sending: bool) -> None:
    began: list[bool] = []
    gone = asyncio.Event()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # by a reset
            ending = LingeringTransport(transport, lambda: sending, lambda: began.append(True))
            ending.close()
            assert ending.is_closing()

        def connection_lost(self, exc: Exception | None) -> None:
            gone.set()

    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1")
    async with server:
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            await asyncio.wait_for(gone.wait(), 10)
    assert began == [True] * sending
