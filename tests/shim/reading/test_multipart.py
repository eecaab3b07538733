from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from shim.errors import InvalidInput
from shim.reading.multipart import open_multipart

ON_DISK = b"x" * (MultiPartParser.spool_max_size + 1)
FILE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + ON_DISK


async def sent(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


@pytest.mark.parametrize("body", [FILE, FILE + b"\r\n" + FILE], ids=["the only file", "the second"])
async def test_a_body_that_is_cut_off_leaves_no_file_open(body: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidInput, match="ends before its closing boundary") as raised:
        async with open_multipart(Headers({"content-type": "multipart/form-data; boundary=b"}), sent(body)):
            raise AssertionError
    assert len(os.listdir("/proc/self/fd")) == before
    assert raised.tb  # and with it all that was in use, or the garbage collector might have closed it
