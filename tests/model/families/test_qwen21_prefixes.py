"""Qwen-Image-2.1's prefixes: made once for all who share them, bounded in bytes, made again where they are gone."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_edit.errors import BadRequest
from qwen_edit.metrics.protocol import PrefixUsage
from qwen_edit.request import EditRequest

from tests.kit.engines import TestEngine, difference, edit, engine_on, together_after_the_first_step
from tests.kit.in_process import Answer, wait_until

BOUND = 1e-4
AREA = 64 * 64
TOKENS_OF_A_REFERENCE = 16
TOKEN_BYTES = 3 * 2 * 64 * 4  # layers, keys and values, width, float32


@pytest.fixture(scope="module")
def pictures(photo: Callable[[str], bytes]) -> list[bytes]:
    """Ten, small."""
    with Image.open(io.BytesIO(photo("cat"))) as cat:
        files = [io.BytesIO() for _ in range(10)]
        for number, file in enumerate(files):
            cat.crop((number * 9, 0, number * 9 + 64, 64)).save(file, "PNG")
    return [file.getvalue() for file in files]


def bytes_of(engine: TestEngine, request: EditRequest) -> int:
    """Of the request's prefixes, by what a server that has nothing else holds afterwards."""
    engine.submit(request).wait()
    return settled(engine).bytes


def settled(engine: TestEngine) -> PrefixUsage:
    wait_until(lambda: engine.watch.held == (0, 0))
    return engine.worker.usage().prefixes


def test_variants_encode_one_prefix_and_segments_none_anew(engine: TestEngine, pictures: list[bytes]) -> None:
    for answer in [engine.submit(edit(pictures[0], seed=seed)) for seed in range(4)]:
        answer.wait()
    assert settled(engine)[:3] == (3, 1, 0)
    assert engine.watch.cache_counts[1] == 2, "one text, and the latents of its picture"
    common = {"seed": 9, "num_inference_steps": 6}
    whole = engine.submit(edit(pictures[0], **common)).wait().image
    latents = None
    for start in (0, 2, 4):
        outcome = engine.submit(
            edit(pictures[0], **common, start_step=start, stop_step=start + 2, latents=latents)
        ).wait()
        latents = outcome.latents
    assert whole is not None
    assert outcome.image is not None
    assert np.array_equal(outcome.image, whole)
    assert settled(engine)[:3] == (3 + 4, 1, 0)
    assert engine.watch.prefix_usage == engine.worker.usage().prefixes, "what the metrics tell"


def test_eight_strangers_make_eight_prefixes_and_share_their_steps(engine: TestEngine, pictures: list[bytes]) -> None:
    requests = [edit(pictures[n], prompt=f"number {n}", seed=n, num_inference_steps=12) for n in range(8)]
    together_after_the_first_step(engine, len(requests))
    for answer in [engine.submit(request) for request in requests]:
        answer.wait()
    assert settled(engine)[:3] == (0, 8, 0)
    assert len(engine.worker.batches) <= 8 * 12 / 5


def test_another_caller_shares_no_prefix(engine: TestEngine, pictures: list[bytes]) -> None:
    for caller in ("a", "b", "a"):
        engine.submit(edit(pictures[0], caller=caller)).wait()
    assert settled(engine)[:3] == (1, 2, 0)


def test_a_prefix_that_was_dropped_between_segments_is_made_again_once_and_changes_nothing(
    pipeline: Any, engine: TestEngine, pictures: list[bytes]
) -> None:
    common = {"seed": 5, "true_cfg_scale": 3.0, "negative_prompt": "bad", "num_inference_steps": 6}
    kept = engine.latents(edit(*pictures[:2], **common))
    room = settled(engine).bytes
    with engine_on(pipeline, reference_area=AREA, prefix_bytes=room) as small:
        first = small.submit(edit(*pictures[:2], **common, stop_step=3)).wait()
        small.submit(edit(pictures[2], prompt="another")).wait()
        rest = edit(*pictures[:2], **common, start_step=3, latents=first.latents)
        assert difference(small.latents(rest), kept) <= BOUND
        # Of the two of a guided edit the other one was dropped: one was enough.
        assert settled(small)[:3] == (1, 4, 1)


def test_a_server_that_keeps_nothing_keeps_no_prefix(pipeline: Any, engine: TestEngine, pictures: list[bytes]) -> None:
    common = {"seed": 5, "num_inference_steps": 4}
    expected = engine.latents(edit(*pictures[:2], **common))
    with engine_on(pipeline, reference_area=AREA, cache_bytes=0) as forgetful:
        first = forgetful.submit(edit(*pictures[:2], **common, stop_step=2)).wait()
        wait_until(lambda: forgetful.worker.usage().prefixes.bytes == 0)
        rest = edit(*pictures[:2], **common, start_step=2, latents=first.latents)
        assert difference(forgetful.latents(rest), expected) <= BOUND


def test_forty_edits_of_ten_references_leave_memory_bounded_and_paused_ones_block_no_newcomer(
    pipeline: Any, pictures: list[bytes]
) -> None:
    """Each comes before the one that is running: all are begun, and all but one are paused.

    A newcomer comes at the first step of the one before it, which makes no third while that one is encoded.
    """
    now = time.monotonic()
    requests = [edit(*pictures, prompt=f"{n:02}", arrival=now - n, num_inference_steps=5) for n in range(40)]
    with engine_on(pipeline, reference_area=AREA) as engine:
        room = bytes_of(engine, requests[0])
        expected = engine.latents(replace(requests[0], id="again"))
    del engine
    gc.collect()
    answers: list[Answer] = []
    alive: list[int] = []

    with engine_on(pipeline, reference_area=AREA, prefix_bytes=room, max_batch_tokens=1, stretch=0) as engine:

        def newcomer() -> None:
            wait_until(lambda: engine.worker.encodings >= len(answers))
            if len(answers) < len(requests) and engine.worker.batches[-1] == [requests[len(answers) - 1].id]:
                answers.append(engine.submit(requests[len(answers)]))
                wait_until(lambda: engine.worker.prepared == len(answers))
            if len(engine.worker.batches) % 25 == 0:
                alive.append(bytes_of_living_prefixes())

        engine.worker.before_step = newcomer
        answers.append(engine.submit(requests[0]))
        wait_until(lambda: len(answers) == len(requests) and all(answer.answered_at for answer in answers), 60)
        usage = settled(engine)
        assert difference(engine.final_latents[requests[0].id], expected) <= BOUND
    assert all(answer.outcome_given for answer in answers)
    ended = [answer.answered_at for answer in answers]
    assert ended == sorted(ended, reverse=True), "the last to come was served first"
    assert usage[1:] == (40 + 39, 39, room)
    assert max(alive) <= room


def bytes_of_living_prefixes() -> int:
    """Of whoever holds them."""
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
    return sum(each.nbytes for each in tensors if each.ndim == 5 and each.shape[:2] == (3, 2))


def test_a_step_takes_those_whose_prefixes_fit_together(pipeline: Any, pictures: list[bytes]) -> None:
    now = time.monotonic()
    prompts = ["0", "0", "0", "1", "2", "3"]
    requests = [edit(pictures[0], prompt=prompt, seed=n, arrival=now + n) for n, prompt in enumerate(prompts)]
    with engine_on(pipeline, reference_area=AREA) as engine:
        room = bytes_of(engine, requests[0])
    with engine_on(pipeline, reference_area=AREA, prefix_bytes=2 * room, stretch=0) as engine:
        together_after_the_first_step(engine, len(requests))
        for answer in [engine.submit(request) for request in requests]:
            answer.wait()
        most = max(map(len, engine.worker.batches))
        assert most == 4, "two prefixes, one of which is that of three variants"
        assert settled(engine)[1:] == (4, 0, 2 * room)


def test_a_forward_counts_its_outputs_and_an_eighth_of_their_prefixes(pipeline: Any, pictures: list[bytes]) -> None:
    """Four variants of ten references, 16 tokens each: a prefix of some 240, a row of 16 and 30."""
    now = time.monotonic()
    requests = [edit(*pictures, seed=n, arrival=now) for n in range(4)]
    with engine_on(pipeline, reference_area=AREA, max_batch_tokens=200) as engine:
        together_after_the_first_step(engine, len(requests))
        for answer in [engine.submit(request) for request in requests]:
            answer.wait()
        assert max(map(len, engine.worker.batches)) == 4
        assert max(engine.worker.expected_tokens(requests[0])) < 50


def test_a_prefix_that_never_fits_is_refused_with_both_numbers(pipeline: Any, pictures: list[bytes]) -> None:
    guided = {"true_cfg_scale": 3.0, "negative_prompt": "bad"}
    fits = edit(*pictures[:5])
    with engine_on(pipeline, reference_area=AREA) as engine:
        room = bytes_of(engine, fits)
    with engine_on(pipeline, reference_area=AREA, prefix_bytes=room) as engine:
        engine.submit(fits).wait()
        said = rf"{room / 1e6:.3g} MB fit on this server"
        with pytest.raises(BadRequest, match=rf"image: 6 reference images and the text: 0\.\d+ MB .*{said}"):
            engine.submit(edit(*pictures[:6])).wait()
        with pytest.raises(BadRequest, match=rf"image: 5 reference images and the text, twice with guidance: .*{said}"):
            engine.submit(edit(*pictures[:5], **guided)).wait()
    with (
        engine_on(pipeline, reference_area=AREA, prefix_bytes=1) as engine,
        pytest.raises(BadRequest, match="prompt: the text: "),
    ):
        engine.submit(edit(size=(64, 64))).wait()
    assert room > 5 * TOKENS_OF_A_REFERENCE * TOKEN_BYTES


def test_after_running_out_of_memory_prefixes_are_made_again(engine: TestEngine, pictures: list[bytes]) -> None:
    request = edit(pictures[0], seed=3)
    expected = engine.latents(replace(request, id="before"))
    failures = [torch.OutOfMemoryError("out of memory")]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    engine.worker.before_step = fail_once
    assert difference(engine.latents(request), expected) <= BOUND
    assert settled(engine)[1:3] == (2, 1)
