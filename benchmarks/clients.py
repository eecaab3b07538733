"""Clients that keep a server busy with a mix of edits, and know the picture that each should have got."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import aiohttp
import numpy as np

from tests.kit.answers import Pixels, pictures, same
from tests.kit.servers import PROJECT

PHOTOS = {name: (PROJECT / "tests" / "data" / f"{name}.jpg").read_bytes() for name in ("cat", "coffee", "rocket")}
CLIENT_SECONDS = 300.0
NOT_ADMITTED = (429, 503)  # with Retry-After: nothing was begun


@dataclass(frozen=True)
class Edit:
    fields: tuple[tuple[str, str], ...]
    images: tuple[str, ...]  # names of PHOTOS; several are a batch

    def form(self) -> aiohttp.FormData:
        form = aiohttp.FormData(self.fields)
        for name in self.images:
            form.add_field("images", PHOTOS[name], filename=f"{name}.jpg")
        return form


def mix() -> list[Edit]:
    """Sizes, steps, guidance, pictures and batches of many kinds; every edit has a seed."""
    shapes = product(("64x64", "128x96", "192x192"), (4, 12, 30), ("1", "4"))
    singles = [
        Edit(_fields(size, steps, cfg, number), (tuple(PHOTOS)[number % 3],))
        for number, (size, steps, cfg) in enumerate(shapes)
    ]
    batches = [
        Edit(_fields("96x64", 8, "1", 100, n="2"), tuple(PHOTOS)),
        Edit(_fields("64x64", 20, "4", 200), ("cat", "rocket")),
    ]
    return [*singles, *batches]


def _fields(size: str, steps: int, cfg: str, seed: int, **more: str) -> tuple[tuple[str, str], ...]:
    fields = {"prompt": f"edit number {seed}", "size": size, "num_inference_steps": str(steps), "true_cfg_scale": cfg}
    return tuple((fields | {"seed": str(seed)} | more).items())


@dataclass
class Tally:
    """What became of the requests."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)  # no answer, or an error of the server's
    wrong: int = 0
    left: int = 0  # by clients who hung up
    seconds: list[float] = field(default_factory=list)  # of the answered ones
    refused_seconds: list[float] = field(default_factory=list)  # from the request's last byte to the refusal

    def __str__(self) -> str:
        return (
            f"{self.sent} sent, {self.statuses[200]} answered, {self.statuses[429]} refused with 429, "
            f"{self.statuses[503]} turned away with 503, {self.left} left by their clients, {len(self.lost)} lost, "
            f"{self.wrong} wrong"
        )


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")


async def post(session: aiohttp.ClientSession, url: str, edit: Edit) -> tuple[int, Any, list[Pixels]]:
    """(status, the answer, its pictures)"""
    async with session.post(f"{url}/v1/images/edits", data=edit.form()) as response:
        answer = await response.json()
        if response.status != 200:
            return response.status, answer, []
        return response.status, answer, pictures(answer)


class Clients:
    def __init__(self, url: str, edits: list[Edit], seed: int = 0) -> None:
        self.url = url
        self.edits = edits
        self.tally = Tally()
        self.expected: dict[Edit, list[Pixels]] = {}
        self._random = random.Random(seed)
        self.stop = asyncio.Event()

    def session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=CLIENT_SECONDS))

    def traced_session(self) -> aiohttp.ClientSession:
        """One that notes how long after its last byte a request was refused."""
        trace = aiohttp.TraceConfig()

        async def begin(_: Any, context: Any, __: Any) -> None:
            context.last_byte = time.monotonic()

        async def sent(_: Any, context: Any, __: Any) -> None:
            context.last_byte = time.monotonic()

        async def end(_: Any, context: Any, done: aiohttp.TraceRequestEndParams) -> None:
            if done.response.status == 429:
                self.tally.refused_seconds.append(time.monotonic() - context.last_byte)

        trace.on_request_start.append(begin)
        trace.on_request_chunk_sent.append(sent)
        trace.on_request_end.append(end)
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=CLIENT_SECONDS)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, trace_configs=[trace])

    async def learn(self) -> None:
        """The pictures of an undisturbed run, one edit at a time."""
        async with self.session() as session:
            for edit in self.edits:
                status, answer, found = await post(session, self.url, edit)
                assert status == 200, answer
                self.expected[edit] = found

    async def closed_loop(self, count: int, leaving: float = 0.0) -> None:
        """`count` clients, each with one request at a time, until `stop`; a share of `leaving` of them hangs up."""
        async with self.session() as session, asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._loop(session, leaving))

    async def _loop(self, session: aiohttp.ClientSession, leaving: float) -> None:
        while not self.stop.is_set():
            edit = self._random.choice(self.edits)
            if self._random.random() < leaving:
                await self._leave(session, edit)
            else:
                retry = await self.one(session, edit)
                if retry:
                    await asyncio.sleep(min(retry, 2.0))

    async def _leave(self, session: aiohttp.ClientSession, edit: Edit) -> None:
        self.tally.sent += 1
        try:
            async with asyncio.timeout(self._random.uniform(0.05, 1.0)):
                await post(session, self.url, edit)
                self.tally.statuses[200] += 1
        except (TimeoutError, aiohttp.ClientError):
            self.tally.left += 1

    async def one(self, session: aiohttp.ClientSession, edit: Edit) -> float:
        """Sends the edit and counts what became of it; seconds to wait when it was refused."""
        tally = self.tally
        tally.sent += 1
        started = time.monotonic()
        try:
            status, answer, found = await post(session, self.url, edit)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            tally.lost.append(f"{type(error).__name__}: {error}")
            return 1.0
        tally.statuses[status] += 1
        if status == 200:
            tally.seconds.append(time.monotonic() - started)
            tally.wrong += edit in self.expected and not same(found, self.expected[edit])
            return 0.0
        if status not in NOT_ADMITTED:
            tally.lost.append(f"{status}: {str(answer)[:200]}")
        return 1.0
