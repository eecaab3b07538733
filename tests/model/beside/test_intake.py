"""In which order pictures are decoded, one of a job at a time, and what never waits for them."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from qwen_edit.beside.intake import Intake
from qwen_edit.beside.shared_device import SharedDevice
from qwen_edit.conditioning.preparation import Prepared, Preparing, Work
from qwen_edit.conditioning.texts import Prompt
from qwen_edit.errors import EditError, Failed
from qwen_edit.families.sizes import Geometry
from qwen_edit.job import Job
from qwen_edit.pipeline import Devices
from qwen_edit.request import EditRequest
from qwen_edit.scheduling import spent
from qwen_edit.worker import Worker

from tests.kit.engines import edit, engine_on, load_pipeline
from tests.kit.in_process import Answer, Watch, wait_until

SECONDS = 30
DECODING = 2  # pictures at a time


@dataclass
class SlowPictures:
    """A worker whose pictures are decoded when a permit is given, but for those of the edit "held"."""

    devices: Devices = field(default_factory=lambda: Devices.all(torch.device("cpu")))
    takes_turns: bool = False
    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    captions: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    release: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    begun: list[str] = field(default_factory=list)
    at_work: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def prepare(self, request: EditRequest, unwanted: Callable[[], bool]) -> Preparing:
        for _ in request.images:
            yield Work.PICTURE
            self.begun.append(request.id)
            self.at_work.release()
            permits = self.release if request.id == "held" else self.permits
            assert permits.acquire(timeout=SECONDS)
        if not request.prompt:
            yield Work.CAPTION
            self.begun.append(request.id)
            self.at_work.release()
            assert self.captions.acquire(timeout=SECONDS)
        geometry = Geometry((64, 64), (64, 64), (), (), 16)
        return Prepared((), geometry, Prompt("", (), (), 1, ""), negative_prompt=None, mask=None)


@dataclass
class Line:
    intake: Intake
    worker: SlowPictures
    ended: list[str]
    pictures: list[str]
    done: threading.Semaphore
    broken: list[str]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def submit(
        self,
        name: str,
        pictures: int,
        *,
        arrival: float,
        continued: bool = False,
        cancel: bool = False,
        caller: str = "somebody",
        prompt: str = "p",
    ) -> None:
        start = 1 if continued else 0
        request = edit(*[b"x"] * pictures, id=name, arrival=arrival, start_step=start, caller=caller, prompt=prompt)
        self.intake.submit(Job(request, Answer(cancel=cancel), next(self.numbers)))

    def decode(self, count: int) -> None:
        for _ in range(count):
            self.worker.permits.release()

    def wait_for(self, count: int, what: threading.Semaphore) -> None:
        for _ in range(count):
            assert what.acquire(timeout=SECONDS)


@pytest.fixture
def line() -> Iterator[Line]:
    yield from _line(DECODING)


@pytest.fixture
def narrow() -> Iterator[Line]:
    """Of a machine where one picture is decoded at a time."""
    yield from _line(1)


def _line(decoding: int) -> Iterator[Line]:
    worker, done = SlowPictures(), threading.Semaphore(0)
    ended: list[str] = []
    pictures: list[str] = []
    broken: list[str] = []

    def end(job: Job, error: EditError | None) -> None:
        ended.append(job.request.id)
        done.release()

    def breaks(error: Exception) -> None:
        broken.append(str(error))

    device, decoded = SharedDevice(lambda: None), lambda: pictures.append("decoded")
    intake = Intake(cast("Worker", worker), device, end, decoded, breaks, lambda: None, decoding=decoding)
    line = Line(intake, worker, ended, pictures, done, broken)
    for name in ("held", "first")[:decoding]:
        line.submit(name, 1, arrival=0)
    line.wait_for(decoding, worker.at_work)
    yield line
    worker.release.release()
    line.decode(100)
    intake.close()


def test_an_edit_without_a_picture_to_decode_waits_for_nobodys(line: Line) -> None:
    line.submit("encoded already", 0, arrival=1)
    line.wait_for(1, line.done)
    assert line.ended == ["encoded already"]


def test_continued_edits_come_first_then_who_had_fewest_then_by_arrival(line: Line) -> None:
    waiting = (("many", 3, 1.0), ("late", 1, 3.0), ("early", 1, 2.0))
    for name, pictures, arrival in waiting:
        line.submit(name, pictures, arrival=arrival)
    line.submit("continued", 2, arrival=9, continued=True)
    line.submit("nothing to do", 0, arrival=10)
    line.wait_for(1, line.done)  # so the others stand in the line
    for _ in range(7):
        line.decode(1)
        line.wait_for(1, line.worker.at_work)
    assert line.worker.begun[DECODING:] == ["continued", "continued", "many", "early", "late", "many", "many"]


def test_a_continued_edit_waits_for_one_picture_where_one_is_decoded_at_a_time(narrow: Line) -> None:
    narrow.submit("other", 1, arrival=1)
    narrow.submit("nothing to do", 0, arrival=2)
    narrow.wait_for(1, narrow.done)
    narrow.submit("continued", 1, arrival=9, continued=True)
    narrow.submit("nothing to do", 0, arrival=10)
    narrow.wait_for(1, narrow.done)  # so the others stand in the line
    narrow.worker.release.release()
    narrow.wait_for(1, narrow.worker.at_work)
    assert narrow.worker.begun == ["held", "continued"]


def test_whoever_had_much_decoded_lately_goes_behind_the_others(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the segments of one caller's masked edits, which come again and again, would keep everybody waiting."""
    monkeypatch.setattr(spent, "LIGHT_SECONDS", 0.0001)
    line.submit("greedy", 2, arrival=1, continued=True, caller="greedy")
    line.decode(1)
    line.wait_for(1, line.worker.at_work)
    time.sleep(0.01)
    line.submit("other", 2, arrival=2, caller="other")
    line.submit("nothing to do", 0, arrival=10)
    line.wait_for(2, line.done)  # so the others stand in the line
    line.decode(1)
    line.wait_for(1, line.worker.at_work)
    assert line.worker.begun[DECODING:] == ["greedy", "other"]


def test_a_job_has_one_picture_at_a_time_decoded(line: Line) -> None:
    line.worker.release.release()
    line.decode(1)
    line.wait_for(DECODING, line.done)
    line.submit("many", 3, arrival=1)
    line.wait_for(1, line.worker.at_work)
    line.submit("other", 1, arrival=2)
    line.wait_for(1, line.worker.at_work)
    assert line.worker.begun[DECODING:] == ["many", "other"]


def test_captions_are_written_one_at_a_time_and_no_picture_waits_for_them(line: Line) -> None:
    for number in range(DECODING + 1):
        line.submit(f"caption {number}", 0, arrival=number, prompt="")
    line.wait_for(1, line.worker.at_work)
    line.submit("other", 1, arrival=9)
    line.decode(2)
    line.wait_for(2, line.done)
    assert line.ended == ["first", "other"]
    assert line.worker.begun[DECODING:] == ["caption 0", "other"]
    for _ in range(DECODING + 1):
        line.worker.captions.release()
    line.wait_for(DECODING + 1, line.done)
    assert len(line.pictures) == 2


def test_every_picture_is_counted(line: Line) -> None:
    line.submit("many", 3, arrival=1)
    line.worker.release.release()
    line.decode(4)
    line.wait_for(DECODING + 1, line.done)
    line.intake.close()
    assert len(line.pictures) == DECODING + 3


def test_pictures_of_a_cancelled_edit_are_not_decoded(line: Line) -> None:
    line.submit("cancelled", 3, arrival=1, cancel=True)
    line.submit("other", 1, arrival=2)
    line.decode(2)
    line.wait_for(3, line.done)
    assert line.worker.begun[DECODING:] == ["other"]
    assert line.ended == ["first", "cancelled", "other"]


class Unasked(Answer):
    """The reply of an edit whose client a thread cannot ask about."""

    thread = ""

    def cancelled(self) -> bool:
        if threading.current_thread().name == self.thread:
            raise RuntimeError("Failed to increase the shared memory pool")
        return False


class FromDecoding(Unasked):
    thread = "decode"


class FromSteps(Unasked):
    thread = "engine"


@pytest.fixture(scope="module")
def pipeline(checkpoint: Callable[[str], Path]) -> Any:
    return load_pipeline(checkpoint("plus"))


@pytest.mark.parametrize("kind", [FromDecoding, FromSteps])
def test_an_edit_whose_client_cannot_be_asked_about_fails_alone(
    pipeline: Any, photo: Callable[[str], bytes], kind: type[Unasked]
) -> None:
    with engine_on(pipeline) as engine:
        going = threading.Event()
        engine.worker.before_step = lambda: going.wait(0.1)
        other = engine.submit(edit(photo("cat"), num_inference_steps=50))
        wait_until(lambda: engine.worker.batches != [])
        for _ in range(3):  # more than there are threads that decode
            answer = kind()
            engine.engine.submit(edit(photo("coffee"), num_inference_steps=50), answer)
            with pytest.raises(Failed, match="the engine failed"):
                answer.wait()
        going.set()
        other.wait()
        engine.submit(edit(photo("rocket"))).wait()


def test_a_bug_outside_of_any_edit_ends_the_process_instead_of_leaving_it_without_a_thread_that_decodes(
    pipeline: Any, photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(watch: Watch) -> None:
        raise ValueError("of no edit")

    monkeypatch.setattr(Watch, "picture", fail)
    with engine_on(pipeline) as engine:
        engine.submit(edit(photo("cat"), num_inference_steps=1000))
        assert engine.process_ended.wait(20)


@pytest.mark.parametrize(("cores", "decoding"), [(2, 1), (8, 2)])
def test_an_engine_leaves_a_core_to_its_steps(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch, cores: int, decoding: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    before = decoding_threads()
    with engine_on(pipeline):
        assert len(decoding_threads() - before) == decoding


def decoding_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "decode"}
