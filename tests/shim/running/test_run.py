"""Whole runs on services of their own, without any request."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from typing import Never

import pytest
from anyio import CapacityLimiter
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.types import Message

from shim.errors import ClientGone, GenerationError, GenerationTimeout
from shim.guards.flood import Flood
from shim.guards.keys import Keys
from shim.metrics import Metrics
from shim.reading.edit import Edit, edit_of
from shim.reading.spool import Spool
from shim.running.abilities import Told
from shim.running.readiness import Readiness
from shim.running.run import Advanced, EditRun, Event, Output, Partial
from shim.running.segments import Outcome, Segment
from shim.running.services import Services
from shim.settings import Settings
from tests.kit.scripted import STEPS, Call, ScriptedTriton, obey

SETTINGS = Settings(segment_steps=3, max_jobs_per_request=2, request_timeout_seconds=0.5)


def edit(images: int = 1, **texts: str) -> Edit:
    files = [("images", UploadFile(io.BytesIO(b"x"), size=1, filename="a.png")) for _ in range(images)]
    return edit_of([("prompt", "p"), *files, *texts.items()], "classic", SETTINGS)


class Running:
    """A run and what was heard of it."""

    def __init__(self, edit: Edit, triton: ScriptedTriton) -> None:
        self.services = Services(
            settings=SETTINGS,
            keys=Keys(""),
            model=triton,
            readiness=Readiness(triton.servers),
            told=Told(triton.about),
            flood=Flood(),
            spool=Spool(0),
            threads=CapacityLimiter(1),
            metrics=Metrics(),
        )
        self.run = EditRun(edit, self.services, "request", "10.0.0.1")
        self.heard: list[Event] = []

    async def outputs(self) -> list[Output]:
        async def tell(event: Event) -> None:
            self.heard.append(event)

        return await self.run.outputs(tell)

    def count(self, name: str) -> float | None:
        return self.services.metrics.registry.get_sample_value(f"shim_{name}_total")


async def silent(segment: Segment) -> Never:
    await asyncio.sleep(60)
    raise AssertionError


async def failing(segment: Segment) -> Never:
    raise GenerationError("failed")


async def test_every_output_is_an_edit_of_its_own_by_one_name_for_all_its_segments() -> None:
    """So that what its workers die of is blamed on it alone."""
    running = Running(edit(images=2, n="2"), triton := ScriptedTriton())
    await running.outputs()
    names = {(segment.job.index, name) for segment, name in zip(triton.segments, triton.edit_ids, strict=True)}
    assert sorted(index for index, _ in names) == [0, 1, 2, 3]
    (request,) = {name.removesuffix(f"-{index}") for index, name in names}
    assert request.startswith("request-")


async def test_every_output_is_told_its_siblings_caller_and_the_requests_deadline() -> None:
    running = Running(edit(images=2, n="2", seed="5"), triton := ScriptedTriton())
    running.services.readiness.servers = 3
    await running.outputs()
    standings = {segment.standing for segment in triton.segments}
    (told,) = {replace(standing, order=None) for standing in standings}
    assert (told.caller, told.siblings) == ("10.0.0.1", 2)
    assert told.deadline - told.arrived == pytest.approx(SETTINGS.request_timeout_seconds, abs=5)


async def test_outputs_come_in_the_order_of_pictures_and_variants() -> None:
    running = Running(edit(images=2, n="2", seed="5"), ScriptedTriton())
    outputs = await running.outputs()
    assert [(output.job.index, output.seed, output.size) for output in outputs] == [
        (0, 5, (6, 4)),
        (1, 6, (6, 4)),
        (2, 5, (6, 4)),
        (3, 6, (6, 4)),
    ]
    assert Image.open(io.BytesIO(base64.b64decode(outputs[0].picture))).size == (6, 4)
    assert (running.count("input_images"), running.count("output_images")) == (2, 4)


async def test_who_listens_hears_of_every_step_taken_and_every_partial_image() -> None:
    running = Running(edit(images=2, steps="8", stream="true", partial_images="1"), ScriptedTriton())
    await running.outputs()
    advanced = [event for event in running.heard if isinstance(event, Advanced)]
    assert [event.done for event in advanced] == sorted(event.done for event in advanced)
    assert {event.steps for event in advanced} == {16}
    partials = [(event.job.index, event.index) for event in running.heard if isinstance(event, Partial)]
    assert sorted(partials) == [(0, 0), (1, 0)]
    assert sum(isinstance(event, Output) for event in running.heard) == 2


async def test_few_jobs_of_a_request_are_with_the_model_at_a_time() -> None:
    under_way, most = 0, 0

    async def counted(segment: Segment) -> Outcome:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return await obey(segment)

    await Running(edit(n="4", steps="3"), ScriptedTriton(*[counted] * 4)).outputs()
    assert most == SETTINGS.max_jobs_per_request


async def test_the_first_failure_ends_all_jobs() -> None:
    cancelled = []

    async def ended(segment: Segment) -> Never:
        try:
            await silent(segment)
        finally:
            cancelled.append(segment.job.index)

    with pytest.raises(GenerationError):
        await Running(edit(n="3"), ScriptedTriton(ended, failing, ended)).outputs()
    assert 0 in cancelled


async def test_a_run_has_the_requests_time() -> None:
    with pytest.raises(GenerationTimeout, match=r"longer than 0\.5 s"):
        await Running(edit(), ScriptedTriton(silent)).outputs()


@pytest.mark.parametrize(
    ("script", "where"),
    [([silent], "in its first segment"), ([obey, silent], f"after 1 of {STEPS} steps")],
    ids=["first", "second"],
)
async def test_a_client_that_leaves_ends_its_run(script: list[Call], where: str) -> None:
    triton = ScriptedTriton(*script)
    running = Running(edit(), triton)

    async def receive() -> Message:
        while len(triton.segments) < len(script):
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone, match=where):
        await running.run.while_connected(receive, running.outputs())
    assert running.count("edits_abandoned") == 1
