from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from shim.limits import BODIES_IN_FLIGHT
from shim.running.byte_gate import ByteGate
from tests.kit.http_triton import http_triton
from tests.kit.servers import serve_shim

NEW, CONTINUED = True, False
UPLOAD_BYTES = 10 * 10**6
UPLOADS = 24
MOST_BODY_BYTES = 16 * 10**6


class Passage:
    """A call that stays until it is told to end."""

    def __init__(self, gate: ByteGate, size: int, order: tuple[bool, float]) -> None:
        self.inside = False
        self._end = asyncio.Event()
        self._task = asyncio.create_task(self._pass(gate, size, order))

    async def _pass(self, gate: ByteGate, size: int, order: tuple[bool, float]) -> None:
        async with gate.passing(size, order):
            self.inside = True
            await self._end.wait()
        self.inside = False

    async def end(self) -> None:
        self._end.set()
        await self._task
        await settled()

    async def cancel(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def passages(gate: ByteGate, *calls: tuple[int, tuple[bool, float]]) -> list[Passage]:
    made = [Passage(gate, size, order) for size, order in calls]
    await settled()
    return made


def inside(made: list[Passage]) -> list[bool]:
    return [passage.inside for passage in made]


async def test_what_does_not_fit_waits_and_nothing_overtakes_it() -> None:
    a, b, c, d = made = await passages(ByteGate(10), (4, (NEW, 1.0)), (4, (NEW, 2.0)), (7, (NEW, 3.0)), (1, (NEW, 4.0)))
    assert inside(made) == [True, True, False, False]
    await a.end()
    assert inside(made) == [False, True, False, False]
    await b.end()
    assert inside(made) == [False, False, True, True]
    await c.end()
    await d.end()


async def test_continued_calls_go_first_then_those_that_arrived_first() -> None:
    orders = [(NEW, 1.0), (NEW, 3.0), (NEW, 2.0), (CONTINUED, 4.0)]
    first, late, early, continued = made = await passages(ByteGate(1), *[(1, order) for order in orders])
    assert inside(made) == [True, False, False, False]
    for ending, following in ((first, continued), (continued, early), (early, late)):
        await ending.end()
        assert [passage for passage in made if passage.inside] == [following]
    await late.end()


async def test_one_call_always_passes() -> None:
    (large,) = made = await passages(ByteGate(1), (100, (NEW, 1.0)))
    assert inside(made) == [True]
    await large.end()


async def test_who_gives_up_leaves_room_whether_inside_or_waiting() -> None:
    a, b, c = made = await passages(ByteGate(10), (10, (NEW, 1.0)), (10, (NEW, 2.0)), (10, (NEW, 3.0)))
    await b.cancel()
    assert inside(made) == [True, False, False]
    await a.cancel()
    assert inside(made)[2]
    await c.end()


def test_many_large_uploads_never_fill_triton_and_all_are_answered(png: bytes) -> None:
    with http_triton() as triton:
        triton.seconds = 0.05
        with serve_shim(triton.url, MAX_BODY_BYTES=str(MOST_BODY_BYTES)) as shim:

            def edit(number: int) -> Any:
                picture = png + bytes(UPLOAD_BYTES)
                url = f"{shim.url}/v1/images/edits"
                return httpx.post(url, data={"prompt": "x"}, files={"image": picture}, timeout=120).status_code

            with ThreadPoolExecutor(UPLOADS) as pool:
                statuses = list(pool.map(edit, range(UPLOADS)))
        budget = BODIES_IN_FLIGHT * MOST_BODY_BYTES
        assert statuses == [200] * UPLOADS
        assert budget / 2 < triton.most_bytes <= budget
