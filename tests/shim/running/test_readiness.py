from __future__ import annotations

import asyncio

import pytest

from shim.running import readiness
from shim.running.readiness import Readiness


class Asked:
    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.times = 0

    async def __call__(self) -> bool:
        self.times += 1
        await asyncio.sleep(0)
        return self.answer


@pytest.mark.parametrize("answer", [True, False])
async def test_many_who_ask_at_once_share_one_answer(answer: bool) -> None:
    asked = Asked(answer)
    ready = Readiness(asked)
    assert await asyncio.gather(*(ready.is_ready() for _ in range(100))) == [answer] * 100
    assert asked.times == 1


async def test_an_old_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CACHE_SECONDS", 0.0)
    asked = Asked(False)
    ready = Readiness(asked)
    assert not await ready.is_ready()
    asked.answer = True
    assert await ready.is_ready()
