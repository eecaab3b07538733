from __future__ import annotations

import asyncio
import io
import itertools
from dataclasses import replace
from typing import Never

import pytest
from starlette.datastructures import UploadFile

from shim.errors import GenerationError, InvalidInput, ModelNotReady, QueueFull, ShimError
from shim.metrics import Metrics
from shim.reading.edit import Job, edit_of
from shim.running import segments
from shim.running.admission import Admission
from shim.running.faults import Interrupted, TritonFault, UnknownPictures, Unreached
from shim.running.readiness import Readiness
from shim.running.segments import Edited, Outcome, Patience, Plan, Runner, Segment, back_off
from shim.running.standing import Standing
from shim.settings import Settings
from tests.kit.scripted import STEPS, Call, ScriptedTriton, obey


def ends(plan: Plan, steps: int, known: bool = True) -> list[int]:
    """Where the segments of an edit of so many steps end."""
    found, start = [], 0
    while start < steps:
        start = plan.stop(start, steps if known or start else None) or steps
        found.append(start)
    return found


@pytest.mark.parametrize(
    ("segment_steps", "partial_images", "steps", "known", "expected"),
    [
        (10, 0, 50, True, [10, 20, 30, 40, 50]),
        (10, 0, 50, False, [1, 11, 21, 31, 41, 50]),
        (10, 0, 10, True, [10]),
        (10, 0, 11, True, [10, 11]),
        (10, 0, 2, False, [1, 2]),
        (0, 0, 50, True, [50]),
        (0, 0, 50, False, [50]),
        (10, 2, 30, True, [10, 20, 30]),
        (10, 3, 50, True, [10, 12, 22, 25, 35, 37, 47, 50]),
        (0, 3, 50, True, [12, 25, 37, 50]),
        (0, 1, 50, False, [1, 25, 50]),
        (10, 3, 2, True, [1, 2]),
        (1, 0, 4, True, [1, 2, 3, 4]),
    ],
)
def test_the_segments_of_an_edit(
    segment_steps: int, partial_images: int, steps: int, known: bool, expected: list[int]
) -> None:
    assert ends(Plan(segment_steps, partial_images), steps, known) == expected


def test_no_segment_is_longer_than_the_setting_and_every_partial_image_is_an_end() -> None:
    for size, partials, steps, known in itertools.product((1, 3, 10), range(4), range(2, 60), (True, False)):
        plan = Plan(size, partials)
        found = ends(plan, steps, known)
        assert max(end - start for start, end in itertools.pairwise([0, *found])) <= size
        assert {*plan.partials(steps), steps} <= {*found}
        assert found == sorted({*found})


def test_partial_images_are_evenly_spaced_and_as_many_as_there_are_steps_for() -> None:
    assert Plan(10, 3).partials(40) == [10, 20, 30]
    assert Plan(10, 3).partials(4) == [1, 2, 3]
    assert Plan(10, 3).partials(3) == [1, 2]
    assert Plan(10, 0).partials(40) == []


def test_patience_grows_with_what_was_seen_and_with_every_disappointment() -> None:
    patience = Patience(200.0)
    assert patience.limit(10) == 200.0
    patience.answered(steps=10, seconds=20.0)
    assert patience.limit(10) == 60 + 10 * 10 * 2.0
    patience.answered(steps=10, seconds=5.0)
    assert patience.limit(5) == 60 + 10 * 5 * 2.0
    patience.ran_out()
    assert patience.limit(5) == 2 * (60 + 10 * 5 * 2.0)
    assert Patience(None).limit(50) is None


def test_the_waits_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BACK_OFF_SECONDS", (0.25, 8.0))
    waits = list(itertools.islice(back_off(), 10))
    assert 0.18 < waits[0] < 0.32
    assert all(wait <= 10 for wait in waits)
    assert waits[-1] >= 6


def job(**texts: str | UploadFile) -> Job:
    upload = UploadFile(io.BytesIO(b"x"), size=1, filename="a.png")
    return edit_of([("prompt", "p"), ("image", upload), *texts.items()], "openai", Settings()).jobs()[0]


class Run:
    """One job run against a script."""

    def __init__(self, *script: Call, plan: Plan = Plan(3, 0), timeout_seconds: float = 290.0) -> None:  # noqa: B008
        self.triton = ScriptedTriton(*script)
        self.reported: list[tuple[int, bool]] = []  # (step, has a preview)
        self.metrics = Metrics()
        self.admission = Admission()
        self.runner = Runner(
            model=self.triton,
            readiness=Readiness(self.triton.servers),
            metrics=self.metrics,
            plan=plan,
            timeout_seconds=timeout_seconds,
            standing=Standing(arrived=1.0, deadline=291.0),
            edit_id="r",
            admission=self.admission,
        )

    async def edited(self, **texts: str | UploadFile) -> Edited:
        async def report(job: Job, outcome: Outcome) -> None:
            self.reported.append((outcome.step, outcome.preview is not None))

        return await self.runner.run(job(**texts), report)

    def count(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"shim_{name}_total")


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BACK_OFF_SECONDS", (0.001, 0.002))


async def broken(segment: Segment) -> Never:
    raise Interrupted("ClientOSError: reset")


async def unreached(segment: Segment) -> Never:
    raise Unreached("ClientConnectorError: refused")


async def silent(segment: Segment) -> Never:
    await asyncio.sleep(60)
    raise AssertionError


async def told_place(segment: Segment) -> Outcome:
    return replace(await obey(segment), order=7.0)


async def named(segment: Segment) -> Outcome:
    return replace(await obey(segment), named=True)


async def unknown(segment: Segment) -> Never:
    raise UnknownPictures("send the pictures")


async def test_pictures_that_the_model_has_seen_are_named_and_sent_where_it_forgot_them() -> None:
    run = Run(named, named, unknown, named, plan=Plan(2, 0))
    await run.edited(steps="10")
    assert run.triton.spans == [(0, 2), (2, 4), (4, 6), (4, 6), (6, 8), (8, None)]
    assert [segment.named for segment in run.triton.segments] == [False, True, True, False, True, False]


async def test_an_older_model_that_misses_the_pictures_which_are_named_is_sent_them() -> None:
    missed = InvalidInput("image: at least one encoded reference image is needed")
    run = Run(named, refusing(missed), obey, plan=Plan(2, 0))
    await run.edited(steps="6")
    assert run.triton.spans == [(0, 2), (2, 4), (2, 4), (4, None)]
    assert [segment.named for segment in run.triton.segments] == [False, True, False, False]
    refused = Run(named, refusing(missed), refusing(missed), plan=Plan(2, 0))
    with pytest.raises(InvalidInput):
        await refused.edited(steps="6")


def refusing(error: ShimError) -> Call:
    async def refuse(segment: Segment) -> Never:
        raise error

    return refuse


async def test_a_job_goes_on_where_each_segment_ended() -> None:
    run = Run(told_place)
    edited = await run.edited(seed="5", steps="8", cfg="2")
    assert run.triton.spans == [(0, 3), (3, 6), (6, None)]
    first, second, last = run.triton.segments
    assert first.standing == Standing(arrived=1.0, deadline=291.0)
    assert second.standing == Standing(arrived=1.0, deadline=291.0, order=7.0)
    assert (first.latents, last.steps, last.true_cfg_scale, last.job.seed) == (None, 8, 2.0, 5)
    assert last.latents is not None
    assert last.latents[0, 0] == 2
    assert edited.seed == 5
    assert run.reported == [(3, False), (6, False)]
    assert run.count("segments") == 3


async def test_the_first_segment_learns_what_the_client_left_out() -> None:
    run = Run()
    await run.edited()
    assert run.triton.spans == [(0, 1), (1, 4), (4, 7), (7, None)]
    assert [(s.steps, s.true_cfg_scale) for s in run.triton.segments[:2]] == [(None, None), (STEPS, 4.0)]


async def test_an_edit_may_be_one_piece() -> None:
    run = Run(plan=Plan(0, 0))
    await run.edited()
    assert run.triton.spans == [(0, None)]


async def test_timings_are_those_of_all_segments() -> None:
    async def unseen(segment: Segment) -> Outcome:
        return await obey(segment, cache_hit=False)

    timings = (await Run(unseen).edited(steps="8")).timings
    assert (timings["queue"], timings["denoise"], timings["text_tokens"]) == (0.75, 3.0, 5)
    assert (timings["cache_hit"], timings["segments"]) == (False, 3)


@pytest.mark.parametrize("steps", [{"steps": "8"}, {"steps": "2"}, {}], ids=["8", "2", "default"])
async def test_previews_are_asked_for_where_partial_images_are_wanted(steps: dict[str, str]) -> None:
    run = Run(plan=Plan(3, 3))
    await run.edited(**steps)
    total = int(steps.get("steps", STEPS))
    assert [step for step, shown in run.reported if shown] == run.runner.plan.partials(total)


async def test_what_breaks_off_is_sent_again_from_the_last_latents() -> None:
    run = Run(obey, broken, broken, obey, broken)
    await run.edited(steps="8")
    assert run.triton.spans == [(0, 3), (3, 6), (3, 6), (3, 6), (6, None), (6, None)]
    assert run.count("segments_interrupted") == 3


async def test_what_nobody_took_is_sent_elsewhere_and_does_not_count_as_broken_off() -> None:
    run = Run(unreached, obey, unreached)
    await run.edited(steps="8")
    assert run.triton.spans == [(0, 3), (0, 3), (3, 6), (3, 6), (6, None)]
    assert run.count("segments_interrupted") == 0


def failing(message: str) -> Call:
    async def fail(segment: Segment) -> Never:
        raise TritonFault(message)

    return fail


async def test_the_same_fault_of_tritons_twice_in_a_row_is_final() -> None:
    run = Run(obey, failing("no shared memory"), failing("no shared memory"))
    with pytest.raises(GenerationError, match="twice in the same way"):
        await run.edited(steps="8")
    assert run.triton.spans == [(0, 3), (3, 6), (3, 6)]


async def test_different_faults_and_those_of_different_segments_are_not() -> None:
    run = Run(failing("a"), failing("b"), failing("a"), obey, failing("a"), broken, failing("a"))
    await run.edited(steps="8")
    assert run.count("segments_interrupted") == 6


async def test_a_connection_that_breaks_twice_is_tried_again() -> None:
    await Run(broken, broken, broken).edited(steps="8")


async def test_a_silent_call_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "QUEUE_SECONDS", 0.05)
    run = Run(silent, obey, silent, timeout_seconds=0.2)
    await run.edited(steps="8")
    assert run.triton.spans == [(0, 3), (0, 3), (3, 6), (3, 6), (6, None)]


@pytest.mark.parametrize("error", [QueueFull("full"), GenerationError("failed")], ids=["refused", "failed"])
async def test_the_models_word_on_the_first_segment_is_the_answer(error: ShimError) -> None:
    with pytest.raises(type(error)):
        await Run(refusing(error)).edited()


async def test_a_continued_segment_that_is_refused_is_sent_again() -> None:
    run = Run(obey, refusing(QueueFull("draining")))
    await run.edited(steps="8")
    assert run.triton.spans == [(0, 3), (3, 6), (3, 6), (6, None)]


async def test_the_models_failure_on_a_continued_segment_is_final() -> None:
    with pytest.raises(GenerationError):
        await Run(obey, refusing(GenerationError("failed"))).edited(steps="8")


async def test_nothing_begun_and_nobody_there_is_not_ready() -> None:
    run = Run(unreached, unreached, unreached)
    run.triton.ready = False
    with pytest.raises(ModelNotReady):
        await run.edited()
    assert len(run.triton.segments) == 1


async def test_a_first_segment_that_broke_off_may_have_been_taken_and_is_not_given_up() -> None:
    run = Run(broken, unreached, refusing(QueueFull("full")), obey)
    await run.edited(steps="8")
    assert run.triton.spans == [(0, 3)] * 4 + [(3, 6), (6, None)]


async def test_what_was_begun_waits_until_triton_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shim.running.readiness.CACHE_SECONDS", 0.0)
    run = Run(obey, broken)
    run.triton.ready = False
    editing = asyncio.create_task(run.edited(steps="8"))
    await asyncio.sleep(0.1)
    assert run.triton.spans == [(0, 3), (3, 6)]
    run.triton.ready = True
    await editing
    assert run.triton.spans == [(0, 3), (3, 6), (3, 6), (6, None)]
