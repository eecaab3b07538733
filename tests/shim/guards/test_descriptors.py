from __future__ import annotations

import contextlib
import logging
import socket
import sys
from pathlib import Path

import httpx
import pytest

from shim.guards import descriptors
from shim.guards.descriptors import OnceAWhile
from tests.kit.http_triton import http_triton
from tests.kit.servers import NO_DRAIN, environment, free_ports, run

FILES = 256
SILENT = 300


def said(once: OnceAWhile, *messages: str) -> list[str]:
    records = [logging.LogRecord("asyncio", logging.ERROR, __file__, 1, message, (), None) for message in messages]
    return [record.getMessage() for record in records if once.filter(record)]


def test_the_same_complaint_is_logged_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    once = OnceAWhile("accept()")
    assert said(once, *["accept() failed"] * 3, "other", "accept() again") == ["accept() failed", "other"]
    monkeypatch.setattr(descriptors, "QUIET_SECONDS", 0.0)
    assert said(OnceAWhile("accept()"), *["accept() failed"] * 2) == ["accept() failed"] * 2


def test_silent_connections_keep_nobody_out_however_few_files_may_be_open(png: bytes) -> None:
    (port,) = free_ports(1)
    command = ["sh", "-c", f'ulimit -Sn 64; ulimit -Hn {FILES}; exec "$0" -m shim', sys.executable]
    with http_triton() as triton, contextlib.ExitStack() as opened:
        env = environment(TRITON_URL=triton.url, HEALTH_URL=triton.url, PORT=str(port), **NO_DRAIN)
        shim = opened.enter_context(run(command, env, port))
        shim.wait_ready()
        for _ in range(SILENT):
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert httpx.get(f"{shim.url}/health").status_code == 200
        edit = httpx.post(f"{shim.url}/v1/images/edits", data={"prompt": "x"}, files={"image": png}, timeout=30)
        assert edit.status_code == 200
        files = len(list(Path(f"/proc/{shim.process.pid}/fd").iterdir()))
        assert FILES / 2 <= files < FILES
        assert "out of system resource" not in shim.log
