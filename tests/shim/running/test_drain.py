from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from shim.app import EDIT_PATHS, create_app
from shim.running import drain
from shim.running.drain import Drain, WaitedFor
from shim.settings import Settings
from tests.kit.scripted import ScriptedTriton


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0]` is the time."""
    now = [100.0]
    monkeypatch.setattr(drain, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_it_does_not_end_before_it_starts(clock: list[float]) -> None:
    drain = Drain(60)
    assert not drain.started
    assert not drain.finished()


def test_an_idle_server_stays_until_a_balancer_has_noticed(clock: list[float]) -> None:
    drain = Drain(60)
    drain.start()
    assert drain.started
    assert not drain.finished()
    clock[0] += 2
    assert drain.finished()


def test_edits_in_flight_are_waited_for(clock: list[float]) -> None:
    drain = Drain(60)
    with drain.edit():
        drain.start()
        clock[0] += 59
        assert not drain.finished()
    assert drain.finished()


def test_the_limit_ends_even_the_edits(clock: list[float]) -> None:
    drain = Drain(60)
    with drain.edit():
        drain.start()
        clock[0] += 60
        assert drain.finished()


def test_an_edit_that_fails_is_over(clock: list[float]) -> None:
    drain = Drain(60)
    with pytest.raises(ZeroDivisionError), drain.edit():
        raise ZeroDivisionError
    assert drain.edits == 0


@pytest.mark.parametrize("path", EDIT_PATHS)
@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 200), ({"stream": "true"}, 200), ({"n": "0"}, 400)],
    ids=["whole", "stream", "refused"],
)
def test_an_edit_is_in_flight_from_its_upload_until_its_answer_has_been_sent(
    monkeypatch: pytest.MonkeyPatch, png: bytes, path: str, fields: dict[str, str], status: int
) -> None:
    drain = Drain(60)
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr("shim.app.Triton", lambda url, health_url, most_bytes: ScriptedTriton())
    app = create_app(Settings(), drain)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_watched() -> Message:
            seen.append(("body", drain.edits))
            return await receive()

        async def send_watched(message: Message) -> None:
            seen.append((message["type"], drain.edits))
            await send(message)

        watches = scope["type"] == "http"
        await app(scope, receive_watched if watches else receive, send_watched if watches else send)

    with TestClient(watched) as client:
        answer = client.post(path.format(model="m"), data={"prompt": "p", **fields}, files={"images": png})
    assert answer.status_code == status
    assert {moment for moment, _ in seen} == {"body", "http.response.start", "http.response.body"}
    assert {edits for _, edits in seen} == {1}
    assert drain.edits == 0


async def test_an_edit_that_is_cancelled_is_over() -> None:
    async def for_ever(*_: Any) -> Any:
        await asyncio.Event().wait()

    drain = Drain(60)
    edit = asyncio.create_task(WaitedFor(for_ever, drain)({}, for_ever, for_ever))
    await asyncio.sleep(0)
    assert drain.edits == 1
    edit.cancel()
    await asyncio.gather(edit, return_exceptions=True)
    assert drain.edits == 0
