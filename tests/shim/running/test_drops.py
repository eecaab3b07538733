"""Whom a call that nobody waits for any more is told to, and who waits for that."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shim.running import drops as module
from shim.running.drops import Drops
from shim.running.segments import Segment
from shim.running.upstream import Upstream

FIRST, LATER = (cast("Segment", SimpleNamespace(continued=continued)) for continued in (False, True))
NAMES = ["triton-1", "triton-2", "triton-3"]


class Balancer:
    """Of two servers, of which the second hangs as long as it is told to; the third name is nobody's."""

    def __init__(self, names: list[str]) -> None:
        self.told: Counter[str] = Counter()
        self.under_way = self.most = 0
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.upstream = cast("Upstream", SimpleNamespace(names=list(names), has_not=self.has_not))
        self.drops = Drops(self.post, self.upstream)

    def has_not(self, name: str) -> None:
        self.upstream.names.remove(name)

    async def post(self, body: Any, edit_id: str, server: str) -> Any:
        self.told[server] += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        if server == "triton-2":
            await self.hangs.wait()
        self.under_way -= 1
        return SimpleNamespace(status=404 if server == "triton-3" else 200), b""


async def test_before_the_first_answer_each_server_is_told_and_then_the_one_that_has_the_edit() -> None:
    balancer = Balancer(NAMES)
    balancer.drops.begin("e.0", "e", FIRST)
    await balancer.drops.close()
    assert balancer.told == Counter(NAMES)
    balancer.drops.begin("e.1", "e", LATER)
    await balancer.drops.close()
    assert balancer.told == Counter([*NAMES, ""])


@pytest.mark.parametrize("segment", [FIRST, LATER], ids=["first", "later"])
async def test_where_there_is_no_balancer_one_is_told(segment: Segment) -> None:
    balancer = Balancer([])
    balancer.drops.begin("e.0", "e", segment)
    await balancer.drops.close()
    assert balancer.told == Counter([""])


async def test_nobody_waits_for_a_server_that_hangs() -> None:
    balancer = Balancer(NAMES)
    balancer.hangs.clear()
    async with asyncio.timeout(5):
        await balancer.drops.end("e.0", "e", FIRST)
    assert balancer.told[""] == 1
    balancer.hangs.set()
    await balancer.drops.close()
    assert balancer.told == Counter([*NAMES, ""])


async def test_a_name_without_a_server_is_not_told_again_and_many_are_told_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 4)
    balancer = Balancer(NAMES)
    for number in range(50):
        balancer.drops.begin(f"e{number}.0", f"e{number}", FIRST)
    await balancer.drops.close()
    assert (balancer.told["triton-1"], balancer.told["triton-2"]) == (50, 50)
    assert balancer.told["triton-3"] <= 4
    assert balancer.most == 4
