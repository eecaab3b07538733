"""Captions on the device that they share with the steps: what one meets there, and who waits for whom."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.beside.streams import OwnStreams
from qwen_edit.errors import Failed
from qwen_edit.pipeline import LayeredPipeline

from tests.kit.engines import TestEngine, engine_on, load_pipeline
from tests.kit.in_process import Watch, wait_until
from tests.kit.layered import taken_apart

AREA = 128 * 128
SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
ILLEGAL = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.fixture(scope="module")
def pipeline(checkpoint: Callable[[str], Path]) -> Any:
    return load_pipeline(checkpoint("layered"))


@pytest.fixture
def cat(photo: Callable[[str], bytes]) -> bytes:
    return photo("cat")


def caption_of(engine: TestEngine, picture: bytes) -> str:
    return str(engine.submit(taken_apart(picture, prompt="")).wait().timings["caption"])


def captions(monkeypatch: pytest.MonkeyPatch, write: Callable[[Callable[[], bool]], str]) -> None:
    """`write` is given what each token asks: whether nobody wants the caption any more."""
    monkeypatch.setattr(LayeredPipeline, "caption", lambda pipeline, picture, unwanted: write(unwanted))


def test_a_caption_that_runs_out_of_memory_is_written_again_alone_with_freed_memory(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def write(unwanted: Callable[[], bool]) -> str:
        happened.append("tried")
        if len(happened) == 1:
            raise SHORT
        return "a hat"

    captions(monkeypatch, write)
    with engine_on(pipeline, reference_area=AREA) as engine:
        engine.worker.before_freeing = lambda: happened.append("freed")
        assert caption_of(engine, cat) == "a hat"
        assert happened == ["tried", "freed", "tried"]


def test_whose_caption_does_not_fit_alone_either_is_told_so(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(unwanted: Callable[[], bool]) -> str:
        raise SHORT

    captions(monkeypatch, write)
    with engine_on(pipeline, reference_area=AREA) as engine, pytest.raises(Failed, match="out of memory"):
        caption_of(engine, cat)


def test_a_device_error_of_a_caption_ends_the_process_with_its_edit_unanswered(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(unwanted: Callable[[], bool]) -> str:
        raise ILLEGAL

    captions(monkeypatch, write)
    with engine_on(pipeline, reference_area=AREA) as engine:
        answer = engine.submit(taken_apart(cat, prompt=""))
        assert engine.process_ended.wait(20)
        assert not answer.answered_at


def test_the_model_that_takes_turns_makes_no_step_while_a_caption_is_written_and_is_alive(
    pipeline: Any, cat: bytes, photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[str] = []
    monkeypatch.setattr(Watch, "heartbeat", lambda watch, at: beats.append(threading.current_thread().name))
    with engine_on(pipeline, reference_area=AREA, takes_turns=True) as engine:
        batches, seen = engine.worker.batches, []

        def write(unwanted: Callable[[], bool]) -> str:
            seen.append(len(batches))
            wait_until(lambda: unwanted() or "caption" in beats)
            seen.append(len(batches))
            return "a hat"

        captions(monkeypatch, write)
        running = engine.submit(taken_apart(photo("coffee"), prompt="a hat", num_inference_steps=100))
        wait_until(lambda: batches != [])
        caption_of(engine, cat)
        assert seen[0] == seen[1]
        assert seen[0] < 100
        running.cancel = True


def test_captions_are_written_on_streams_of_their_threads_own(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []

    @contextlib.contextmanager
    def entered(streams: OwnStreams) -> Iterator[None]:
        inside.append(threading.current_thread().name)
        yield

    monkeypatch.setattr(OwnStreams, "entered", entered)
    with engine_on(pipeline, reference_area=AREA):
        wait_until(lambda: sorted(inside) == ["caption", "code"])
