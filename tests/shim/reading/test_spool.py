from __future__ import annotations

import base64
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from anyio import CapacityLimiter
from PIL import Image
from starlette.requests import Request
from starlette.types import Message

from shim.errors import ModelNotReady
from shim.reading.edit import read_edit
from shim.reading.spool import Share, Spool, refused_when_full
from shim.settings import Settings
from tests.kit.servers import NO_DRAIN, environment, free_ports, run

DISK_BYTES = 20 * 10**6
FILL_DISK = f"""
mount -t tmpfs -o size={DISK_BYTES} none "$TMPDIR" && exec "$0" -m shim
"""
PICTURE = io.BytesIO()
Image.new("RGB", (64, 64)).save(PICTURE, "PNG")
URL = f"data:image/png;base64,{base64.b64encode(PICTURE.getvalue()).decode()}"
JSON_BODY = json.dumps({"prompt": "x", "images": [{"image_url": URL}]}).encode()
FORM_BODY = (
    b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nx\r\n'
    b'--b\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    + PICTURE.getvalue()
    + b"\r\n--b--\r\n"
)
UNSHARE = ("unshare", "--map-root-user", "--mount", "sh", "-c")


async def chunks(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield bytes(size)


async def read(share: Share, *sizes: int, declared: int = 0, copies: int = 1) -> int:
    """How much of a body was read."""
    return sum([len(chunk) async for chunk in share.filled(chunks(*sizes), declared, copies)])


async def test_what_does_not_fit_beside_the_others_is_refused_before_it_is_read() -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    spool = Spool(10)
    with spool.share() as other, spool.share() as share:
        assert await read(other, 6, declared=6) == 6
        with pytest.raises(ModelNotReady, match="try again later"):
            await anext(share.filled(unread(), 5, copies=1))
        assert await read(share, 4, declared=4) == 4
    assert spool.held == 0


async def test_what_is_only_declared_keeps_nobody_out() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"

    spool = Spool(10)
    with spool.share() as other, spool.share() as share:
        await anext(other.filled(endless(), 10, copies=1))
        assert await read(share, 4, 5, declared=9) == 9


async def test_a_body_that_declares_no_length_is_counted_as_it_comes() -> None:
    spool = Spool(10)
    with spool.share() as other, spool.share() as share:
        assert await read(other, 1) == 1
        with pytest.raises(ModelNotReady):
            await read(share, 5, 4, 1)
        assert spool.held == 10


async def test_a_body_is_counted_as_often_as_it_is_kept() -> None:
    spool = Spool(10)
    with spool.share() as share:
        await read(share, 2, 2, declared=4, copies=2)
        assert spool.held == 8


async def test_one_upload_always_fits() -> None:
    with Spool(10).share() as share:
        assert await read(share, 50, 50, declared=50) == 100


def test_a_full_disk_is_refused_in_the_systems_words_and_other_faults_stay_bugs() -> None:
    with pytest.raises(ModelNotReady, match=r"\(No space left on device\)"), refused_when_full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/secret")
    with pytest.raises(PermissionError), refused_when_full():
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize(
    ("kind", "body", "copies"),
    [
        ("application/json", JSON_BODY, 2),
        ("multipart/form-data; boundary=b", FORM_BODY, 1),
    ],
    ids=["json", "form"],
)
async def test_a_request_has_its_share_until_its_edit_is_done(kind: str, body: bytes, copies: int) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "state": {}}
    spool = Spool(10**6)
    async with read_edit(Request(scope, receive), "edit", Settings(), spool, CapacityLimiter(1)) as edit:
        assert edit.prompt == "x"
        assert spool.held == copies * len(body)
    assert spool.held == 0


def has_namespaces() -> bool:
    """Whether a folder can be mounted for one process alone."""
    return bool(shutil.which("unshare")) and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode


@pytest.mark.skipif(not (has_namespaces() or os.environ.get("CI")), reason="no disk can be mounted for one process")
def test_a_full_disk_is_503_without_a_traceback_and_recovers(tmp_path: Path, png: bytes) -> None:
    (port,) = free_ports(1)
    disk = tmp_path / "disk"
    disk.mkdir()
    env = environment(PORT=str(port), TRITON_URL="http://127.0.0.1:9", **NO_DRAIN)
    with run([*UNSHARE, FILL_DISK, sys.executable], {**env, "TMPDIR": str(disk)}, port) as shim:
        shim.wait_ready(path="/health")

        def post(size: int, **headers: str) -> httpx.Response:
            files = {"images": png + bytes(size)}
            url = f"{shim.url}/v1/images/edits"
            return httpx.post(url, data={"prompt": "x"}, files=files, headers=headers, timeout=60)

        classic, openai = post(2 * DISK_BYTES), post(2 * DISK_BYTES, **{"api-key": "k"})
        assert (classic.json()["error"], openai.json()["error"]["code"]) == ("MODEL_NOT_READY",) * 2
        for answer in (classic, openai):
            assert (answer.status_code, 1 <= int(answer.headers["retry-after"]) <= 60) == (503, True)
            assert "No space left on device" in answer.text
        with ThreadPoolExecutor() as pool:
            assert {answer.status_code for answer in pool.map(post, [DISK_BYTES // 2] * 4)} == {503}
        assert "not ready yet" in post(DISK_BYTES // 2).text
        assert "Traceback" not in shim.log
