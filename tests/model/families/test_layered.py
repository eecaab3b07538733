"""Qwen-Image-Layered: the engine's latents and layers equal those of diffusers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_edit.conditioning.captions import Captions
from qwen_edit.conditioning.references import references_of
from qwen_edit.errors import BadRequest, Cancelled
from qwen_edit.families.family import Size
from qwen_edit.families.layered import LAYERED
from qwen_edit.families.layering import Layering
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward import denoise, ragged, sigmas
from qwen_edit.forward.denoise import Denoising
from qwen_edit.loading.assembly import pipeline_of
from qwen_edit.pictures import decoding
from qwen_edit.pipeline import LayeredPipeline, Pipeline
from qwen_edit.request import MAX_PROMPT_CHARACTERS
from qwen_edit.settings import Limits

from tests.kit.engines import (
    MAX_INPUT_PIXELS,
    MAX_PIXELS,
    TestEngine,
    difference,
    engine_on,
    load_pipeline,
    shared_decoders,
    together_after_the_first_step,
)
from tests.kit.in_process import Answer
from tests.kit.layered import composited, oracle, taken_apart, with_alpha

BOUND = 1e-4
AREA = 128 * 128
MEGAPIXEL = 1024 * 1024
PROMPT, NEGATIVE = "a cat on a sofa in front of a window", "blurry"


@pytest.fixture(scope="module")
def pipeline(sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive("layered"))


@pytest.fixture(scope="module")
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline, reference_area=AREA) as running:
        yield running


@pytest.mark.parametrize(
    ("layers", "resolution", "guidance"),
    [(2, 640, 1.0), (4, 640, 4.0), (10, 640, 1.0), (2, 1024, 4.0), (4, 1024, 1.0), (10, 1024, 4.0)],
)
def test_the_latents_are_those_of_diffusers(
    engine: TestEngine, photo: Callable[[str], bytes], layers: int, resolution: int, guidance: float
) -> None:
    request = taken_apart(
        photo("cat"), layers, resolution, prompt=PROMPT, negative_prompt=NEGATIVE, true_cfg_scale=guidance, seed=7
    )
    assert difference(engine.latents(request), oracle(engine, request).latents) <= BOUND


@pytest.mark.parametrize("steps", [2, 9])
def test_any_number_of_steps_has_the_latents_of_diffusers(
    engine: TestEngine, photo: Callable[[str], bytes], steps: int
) -> None:
    request = taken_apart(photo("rocket"), num_inference_steps=steps, true_cfg_scale=2.5)
    assert difference(engine.latents(request), oracle(engine, request).latents) <= BOUND


@pytest.mark.parametrize(("layers", "transparent"), [(2, True), (4, False), (4, True), (10, False)])
def test_the_layers_are_those_of_diffusers_and_so_is_their_composition(
    engine: TestEngine, photo: Callable[[str], bytes], layers: int, transparent: bool
) -> None:
    picture = with_alpha(photo("cat")) if transparent else photo("cat")
    request = taken_apart(picture, layers, 1024, true_cfg_scale=4.0)
    outcome = engine.submit(request).wait()
    assert outcome.image is None
    assert outcome.layers is not None
    theirs = (oracle(engine, request).layers * 255).round().astype(np.uint8)
    assert outcome.layers.shape == theirs.shape
    assert off(outcome.layers, theirs) <= 1
    assert off(composited(outcome.layers), composited(theirs)) <= 1


def off(ours: Any, theirs: Any) -> int:
    """Levels, the most of any pixel."""
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def test_alpha_is_seen(engine: TestEngine, photo: Callable[[str], bytes]) -> None:
    opaque, transparent = (taken_apart(picture) for picture in (photo("cat"), with_alpha(photo("cat"))))
    latents = engine.latents(transparent)
    assert difference(latents, oracle(engine, transparent).latents) <= BOUND
    assert difference(latents, engine.latents(opaque)) > 10 * BOUND


def test_each_of_a_crowd_has_the_latents_of_diffusers(pipeline: Any, photo: Callable[[str], bytes]) -> None:
    requests = [
        taken_apart(photo("cat"), 2, 640, true_cfg_scale=4.0, num_inference_steps=3),
        taken_apart(photo("rocket"), 5, 1024, prompt="a rocket", num_inference_steps=6),
        taken_apart(with_alpha(photo("coffee")), 3, 640, prompt="coffee " * 20, true_cfg_scale=2.0, seed=5),
        taken_apart(photo("astronaut"), 10, 640, seed=9),
    ]
    with engine_on(pipeline, reference_area=AREA) as engine:
        together_after_the_first_step(engine, len(requests))
        for answer in [engine.submit(request) for request in requests]:
            answer.wait()
        assert max(map(len, engine.worker.batches)) >= len(requests) - 1, "they were meant to share forwards"
        for request in requests:
            assert difference(engine.final_latents[request.id], oracle(engine, request).latents) <= BOUND


def test_a_run_in_segments_ends_with_the_same_bits_and_shows_the_composition(
    engine: TestEngine, photo: Callable[[str], bytes]
) -> None:
    whole = taken_apart(photo("cat"), 4, 1024, num_inference_steps=6)
    right = engine.submit(whole).wait().layers
    first = engine.submit(taken_apart(photo("cat"), 4, 1024, num_inference_steps=6, stop_step=3, preview=64)).wait()
    assert first.layers is None
    assert first.latents is not None
    assert first.preview is not None
    assert max(first.preview.shape[:2]) == 64
    assert first.preview.shape[2] == 3
    rest = taken_apart(photo("cat"), 4, 1024, num_inference_steps=6, start_step=3, latents=first.latents)
    resumed = engine.submit(rest).wait().layers
    assert right is not None
    assert resumed is not None
    assert np.array_equal(resumed, right)


def test_the_preview_is_the_composition(engine: TestEngine, photo: Callable[[str], bytes]) -> None:
    request = taken_apart(photo("cat"), 3, 1024, stop_step=3, preview=AREA)
    states: list[Denoising] = []
    engine.worker.encoded[request.id] = states.append
    preview = engine.submit(request).wait().preview
    clean, geometry = states[0].clean, states[0].geometry
    assert clean is not None
    pictures = [decoding.on_white(decoding.picture(engine.pipeline, frame, geometry)) for frame in clean.chunk(4)]
    assert [off(preview, picture) <= 1 for picture in pictures] == [True, False, False, False]


def test_latents_of_another_number_of_layers_are_refused(engine: TestEngine, photo: Callable[[str], bytes]) -> None:
    first = engine.submit(taken_apart(photo("cat"), 4, stop_step=2)).wait()
    with pytest.raises(BadRequest, match="latents: shape"):
        engine.submit(taken_apart(photo("cat"), 5, start_step=2, latents=first.latents)).wait()


def test_a_cancelled_one_ends_at_its_next_step(engine: TestEngine, photo: Callable[[str], bytes]) -> None:
    answers: list[Any] = []

    def cancel() -> None:
        for answer in answers:
            answer.cancel = True

    engine.worker.before_step = cancel
    try:
        answers.append(engine.submit(taken_apart(photo("cat"), num_inference_steps=100)))
        with pytest.raises(Exception, match="cancelled"):
            answers[0].wait()
    finally:
        engine.worker.before_step = lambda: None
    assert engine.submit(taken_apart(photo("cat"))).wait().layers is not None


def test_a_prompt_longer_than_the_model_reads_is_refused(engine: TestEngine, photo: Callable[[str], bytes]) -> None:
    too_long = "hat " * 600
    with pytest.raises(BadRequest, match=r"prompt: .* at most 512"):
        engine.submit(taken_apart(photo("cat"), prompt=too_long)).wait()
    first = engine.submit(taken_apart(photo("cat"), stop_step=2)).wait()
    rest = taken_apart(photo("cat"), prompt=too_long, start_step=2, latents=first.latents)
    assert engine.submit(rest).wait().layers is not None, "a caption that comes back as a prompt is cut, as it was"


@pytest.mark.parametrize(
    ("picture", "resolution", "size"),
    [
        ((1000, 1000), 640, (640, 640)), ((300, 200), 640, (768, 512)), ((4000, 3000), 1024, (1184, 896)),
        ((100, 700), 640, (256, 1696)),
    ],
)  # fmt: skip
def test_layers_have_the_size_of_their_bucket(picture: Size, resolution: int, size: Size) -> None:
    geometry = Sizes(LAYERED, MEGAPIXEL, 16).layered(picture, Layering(4, resolution))
    assert geometry.answer == geometry.output == size
    assert geometry.references == (size,)
    assert geometry.tokens == [5 * size[0] * size[1] // 256, size[0] * size[1] // 256]


@pytest.mark.parametrize("limits", [Limits(pixels=640 * 640 - 1), Limits(side=639)], ids=["pixels", "side"])
def test_layers_larger_than_an_output_may_be_are_refused(limits: Limits) -> None:
    with pytest.raises(BadRequest, match="resolution: 640, at which layers have 640x640 pixels"):
        Sizes(LAYERED, MEGAPIXEL, 16, limits=limits).layered((500, 500), Layering())


# Each makes one thing wrong that a rewrite could make wrong.


def _layers_below_each_other(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        ragged, "frame_by_frame", lambda shapes: [(1, frames * height, width) for frames, height, width in shapes]
    )


def _no_condition_of_time(patch: pytest.MonkeyPatch) -> None:
    right = ragged.condition_of_time
    patch.setattr(ragged, "condition_of_time", lambda *given: right(*given) + 1)


def _linear_shift(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sigmas, "shift_by_root", lambda tokens: 0.5)


def _not_renormalised(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(denoise, "guided", denoise.combined)


def _noise_of_each_frame_alike(patch: pytest.MonkeyPatch) -> None:
    right = Pipeline.noise
    patch.setattr(Pipeline, "noise", lambda self, seed, size, frames: right(self, seed, size).repeat(frames, 1))


MUTATIONS: list[Callable[[pytest.MonkeyPatch], None]] = [
    _layers_below_each_other, _no_condition_of_time, _linear_shift, _not_renormalised, _noise_of_each_frame_alike,
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.__name__))
def test_what_is_wrong_shows(
    pipeline: Any, photo: Callable[[str], bytes], mutation: Callable[[pytest.MonkeyPatch], None]
) -> None:
    request = taken_apart(photo("cat"), 3, 1024, true_cfg_scale=4.0, negative_prompt=NEGATIVE)
    with engine_on(pipeline, reference_area=AREA) as engine:
        right = oracle(engine, request).latents
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            wrong = engine.latents(request)
    assert difference(wrong, right) > 10 * BOUND


def test_an_empty_prompt_is_the_text_encoders_own_caption_written_once(
    pipeline: Any, photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    right = LayeredPipeline.caption

    def caption(self: LayeredPipeline, picture: Any, unwanted: Callable[[], bool]) -> str | None:
        written.append(threading.current_thread().name)
        return right(self, picture, unwanted)

    monkeypatch.setattr(LayeredPipeline, "caption", caption)
    with engine_on(pipeline, reference_area=AREA) as engine:
        first, again = (taken_apart(with_alpha(photo("rocket")), prompt="", seed=seed) for seed in (1, 2))
        answers = [engine.submit(request) for request in (first, again)]
        told, told_again = (answer.wait().timings["caption"] for answer in answers)
        assert told == told_again
        assert told
        assert difference(engine.final_latents[first.id], oracle(engine, first).latents) <= BOUND
        assert written == ["caption"], "in preparation, not between two steps"
        half = taken_apart(with_alpha(photo("rocket")), prompt="", stop_step=2)
        stopped = engine.submit(half).wait()
        rest = replace(
            half, id="rest", edit_id="rest", prompt=told, start_step=2, stop_step=4, latents=stopped.latents, images=(),
            pictures=(hashlib.sha256(half.images[0]).digest(),),
        )  # fmt: skip
        assert difference(engine.latents(rest), engine.final_latents[first.id]) <= BOUND
        assert written == ["caption"]
        engine.submit(taken_apart(with_alpha(photo("rocket")), 2, 1024, prompt="")).wait()
        assert written == ["caption"] * 2, "of another size"


def test_a_caption_under_way_ends_with_its_edit_and_nothing_of_it_is_kept(
    pipeline: Any, photo: Callable[[str], bytes]
) -> None:
    def caption(engine: TestEngine) -> str:
        return str(engine.submit(taken_apart(photo("coffee"), prompt="")).wait().timings["caption"])

    answer = Answer()
    with engine_on(pipeline, reference_area=AREA) as engine, engine_on(pipeline, reference_area=AREA) as undisturbed:
        with at_each_token(pipeline, lambda token: setattr(answer, "cancel", token == 3)) as tokens:
            engine.engine.submit(taken_apart(photo("coffee"), prompt=""), answer)
            with pytest.raises(Cancelled):
                answer.wait()
        assert len(tokens) == 3
        assert caption(engine) == caption(undisturbed)


def test_a_caption_is_written_to_its_end_while_anybody_waits_for_it(
    pipeline: Any, photo: Callable[[str], bytes]
) -> None:
    captions, size = Captions(pipeline_of(pipeline)), (128, 128)
    picture = references_of(taken_apart(photo("coffee")), shared_decoders(MAX_INPUT_PIXELS, MAX_PIXELS), alpha=True)[0]
    left: list[str] = []

    def leaves() -> bool:
        left.append("once")
        return True

    with captions.awaited(picture, size, leaves), captions.awaited(picture, size, lambda: False):
        whole = captions.written(picture, size)
    assert left
    assert captions.known(picture, size) == whole
    other = Captions(pipeline_of(pipeline))
    with other.awaited(picture, size, leaves), other.awaited(picture, size, leaves), pytest.raises(Cancelled):
        other.written(picture, size)
    assert other.known(picture, size) is None
    with other.awaited(picture, size, lambda: False):
        assert other.written(picture, size) == whole


@contextlib.contextmanager
def at_each_token(parts: Any, do: Callable[[int], object]) -> Iterator[list[int]]:
    """`do(1)` before the first token of a caption is chosen, and so on; the list of those so far."""
    tokens: list[int] = []

    def count(*_: Any) -> None:
        tokens.append(len(tokens) + 1)
        do(tokens[-1])

    hook = parts.text_encoder.lm_head.register_forward_pre_hook(count)
    try:
        yield tokens
    finally:
        hook.remove()


def test_a_text_that_is_cut_has_the_states_of_diffusers(engine: TestEngine) -> None:
    text = "a hat and " * 200
    with torch.inference_mode():
        ours = engine.pipeline.embed(engine.pipeline.templated(text, 0), [], mrope=False)
        theirs, _ = engine.pipeline.parts.encode_prompt(text, max_sequence_length=512)
    assert ours.shape == theirs[0].shape
    assert difference(ours, theirs[0]) <= BOUND


def test_a_caption_is_what_it_would_be_as_a_prompt(
    engine: TestEngine, photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LayeredPipeline, "caption", lambda *_: " a hat\r\nand\0 " + "x" * 40_000)
    caption = engine.submit(taken_apart(photo("coffee"), prompt="")).wait().timings["caption"]
    assert caption.startswith("a hat\nand x")
    assert len(caption) < MAX_PROMPT_CHARACTERS


def test_texts_that_are_embedded_meanwhile_change_no_caption(engine: TestEngine, photo: Callable[[str], bytes]) -> None:
    pipeline = engine.pipeline
    assert isinstance(pipeline, LayeredPipeline)
    with Image.open(io.BytesIO(photo("coffee"))) as opened:
        picture = opened.convert("RGB").resize((128, 128))
    embedded: list[torch.Tensor] = []

    def embed(*_: Any) -> None:
        embedded.append(pipeline.embed(pipeline.templated("a hat", 0), [], mrope=False))

    right = pipeline.caption(picture, lambda: False)
    hook = pipeline.parts.text_encoder.lm_head.register_forward_pre_hook(embed)
    try:
        assert pipeline.caption(picture, lambda: False) == right
    finally:
        hook.remove()
    assert len(embedded) > 1
    assert all(torch.equal(each, embedded[0]) for each in embedded)
