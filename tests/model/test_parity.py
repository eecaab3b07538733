"""The engine's latents equal those of the diffusers pipelines, and would not if any part of it were wrong."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from qwen_edit.conditioning.conditioner import Conditioner
from qwen_edit.families.sizes import Geometry, Sizes
from qwen_edit.forward import attention, block, denoise, places, sigmas
from qwen_edit.pipeline import Pipeline, Row
from qwen_edit.request import EditRequest
from qwen_edit.worker import PipelineWorker

from tests.kit import stock
from tests.kit.engines import TestEngine, difference, edit, engine_on, load_pipeline, together_after_the_first_step
from tests.kit.in_process import Answer, wait_until

BOUND = 1e-4  # of the latents' standard deviation; 2e-6 is what rounding makes
FAMILIES = ("edit", "plus", "plus-2511")
SHAPED_AREA = 128 * 128  # pixels: enough that references of other shapes differ in their latents' shapes too
PROMPT, NEGATIVE = "paint the whole picture in bright orange and put a hat on the cat", "blurry"


@pytest.fixture(scope="module", params=FAMILIES)
def pipeline(request: pytest.FixtureRequest, sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive(request.param))


@pytest.fixture(scope="module")
def plus(sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive("plus-2511"))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline) as running:
        yield running


def oracle(running: TestEngine, request: EditRequest, *, mrope: bool = False) -> npt.NDArray[np.float32]:
    """The same edit by the diffusers pipeline."""
    encoder = running.pipeline.parts.text_encoder
    hook = encoder.register_forward_pre_hook(_with_token_types, with_kwargs=True) if mrope else None
    try:
        with stock.areas(running.sizes):
            latents = stock.run(
                running.pipeline.parts,
                [Image.open(io.BytesIO(image)).convert("RGB") for image in request.images],
                prompt=request.prompt,
                negative_prompt=request.negative_prompt if request.guided else None,
                true_cfg_scale=request.true_cfg_scale,
                size=request.size,
                num_inference_steps=request.num_inference_steps,
                seed=request.seed,
            )
    finally:
        if hook:
            hook.remove()
    return np.asarray(latents)


def _with_token_types(encoder: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    pictures = kwargs["input_ids"] == encoder.config.image_token_id
    return args, {**kwargs, "mm_token_type_ids": pictures.long()}


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 112), None], ids=["square", "wide", "tall", "auto"])
def test_an_edit_alone_has_the_latents_of_diffusers(
    engine: TestEngine, photo: Callable[[str], bytes], guidance: float, size: tuple[int, int] | None
) -> None:
    request = edit(
        photo("cat"), prompt=PROMPT, negative_prompt=NEGATIVE, true_cfg_scale=guidance, size=size,
        num_inference_steps=5, seed=7,
    )  # fmt: skip
    assert difference(engine.latents(request), oracle(engine, request)) <= BOUND


@pytest.mark.parametrize("steps", [2, 3, 9, 20])
def test_any_number_of_steps_has_the_latents_of_diffusers(
    engine: TestEngine, photo: Callable[[str], bytes], steps: int
) -> None:
    request = edit(photo("rocket"), num_inference_steps=steps, true_cfg_scale=2.5)
    assert difference(engine.latents(request), oracle(engine, request)) <= BOUND


def three_shapes(photo: Callable[[str], bytes]) -> list[bytes]:
    """Three pictures whose references differ in shape."""
    shapes = [("cat", (300, 200)), ("astronaut", (160, 160)), ("coffee", (100, 300))]
    return [_resized(photo(name), size) for name, size in shapes]


def _resized(image: bytes, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).resize(size).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
def test_three_references_of_different_shapes_have_the_latents_of_diffusers(
    plus: Any, photo: Callable[[str], bytes], guidance: float
) -> None:
    with engine_on(plus, reference_area=SHAPED_AREA) as engine:
        request = edit(*three_shapes(photo), true_cfg_scale=guidance, negative_prompt=NEGATIVE, size=None)
        assert difference(engine.latents(request), oracle(engine, request)) <= BOUND


EDITS = st.fixed_dictionaries(
    {
        "pictures": st.integers(1, 3),
        "masked": st.booleans(),
        "size": st.sampled_from([(64, 64), (128, 64), (64, 112), (96, 96), None]),
        "num_inference_steps": st.integers(2, 6),
        "true_cfg_scale": st.sampled_from([1.0, 2.5, 4.0]),
        "prompt": st.sampled_from(["invert", "make the sky green", "a much longer wording " * 6]),
        "negative_prompt": st.sampled_from([" ", NEGATIVE, "ugly, " * 9]),
        "seed": st.integers(0, 9),
    }
)


@hypothesis.settings(max_examples=5, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(crowd=st.lists(EDITS, min_size=2, max_size=4))
def test_each_edit_of_any_crowd_has_the_latents_of_diffusers(
    plus: Any, photo: Callable[[str], bytes], crowd: list[dict[str, Any]]
) -> None:
    """A masked one those of its run alone, which test_masks.py compares with diffusers."""
    requests = [drawn_edit(photo, **drawn) for drawn in crowd]
    with engine_on(plus) as engine:
        together_after_the_first_step(engine, len(requests))
        for answer in [engine.submit(request) for request in requests]:
            answer.wait()
        engine.worker.before_step = lambda: None
        assert max(map(len, engine.worker.batches)) >= len(requests) - 1, "the edits were meant to share forwards"
        for request in requests:
            ours = engine.final_latents.pop(request.id)
            alone = oracle(engine, request) if request.mask is None else engine.latents(request)
            assert difference(ours, alone) <= BOUND


def drawn_edit(
    photo: Callable[[str], bytes], *, pictures: int, masked: bool, size: tuple[int, int] | None, **values: Any
) -> EditRequest:
    """A mask wants its own shape."""
    images = three_shapes(photo)[:pictures]
    if not masked:
        return edit(*images, size=size, **values)
    width, height = Image.open(io.BytesIO(images[0])).size
    half, mask = Image.new("L", (width, height), 0), io.BytesIO()
    half.paste(255, (0, 0, width // 2, height))
    half.save(mask, "PNG")
    return edit(*images, mask=mask.getvalue(), size=None, **values)


def test_with_mrope_an_edit_equals_diffusers_with_token_types_forwarded(
    pipeline: Any, photo: Callable[[str], bytes]
) -> None:
    with engine_on(pipeline, mrope=True) as engine:
        request = edit(photo("cat"), prompt=PROMPT, true_cfg_scale=3.0)
        latents = engine.latents(request)
        assert difference(latents, oracle(engine, request, mrope=True)) <= BOUND
        assert difference(latents, oracle(engine, request)) > 10 * BOUND


def test_the_picture_is_that_of_diffusers(engine: TestEngine, photo: Callable[[str], bytes]) -> None:
    request = edit(photo("cat"), size=(64, 64), true_cfg_scale=4.0)
    ours = engine.submit(request).wait().image
    assert ours is not None
    with stock.areas(engine.sizes):
        theirs = stock.run(
            engine.pipeline.parts, [Image.open(io.BytesIO(photo("cat")))], prompt=request.prompt, negative_prompt=" ",
            true_cfg_scale=4.0, size=(64, 64), num_inference_steps=4, seed=1, output_type="np",
        )  # fmt: skip
    levels = np.abs(ours.astype(int) - (theirs * 255).round().astype(int))
    assert levels.max() <= 1
    assert (levels > 0).mean() < 1e-3


def strangers(image: bytes) -> list[EditRequest]:
    """Seven edits of one geometry with other prompts, steps, seeds and guidance."""
    table = [
        (6, 4.0, "sky blue"), (9, 2.5, "remove every tree from the picture"), (4, 1.0, "a much longer wording " * 6),
        (5, 7.5, "invert"), (12, 1.0, "make it black and white"), (3, 3.0, "night"), (8, 1.5, "add snow on the ground"),
    ]  # fmt: skip
    return [
        edit(image, num_inference_steps=steps, true_cfg_scale=scale, prompt=prompt, seed=number + 10,
             negative_prompt="ugly, " * number + "bad")
        for number, (steps, scale, prompt) in enumerate(table)
    ]  # fmt: skip


def test_an_edit_among_seven_strangers_equals_its_own_solo_run(pipeline: Any, photo: Callable[[str], bytes]) -> None:
    image = photo("cat")
    requests = [*strangers(image), edit(image, num_inference_steps=10, true_cfg_scale=4.0, negative_prompt=NEGATIVE)]
    with engine_on(pipeline) as alone:
        solo = [alone.latents(request) for request in requests]
        assert max(jobs for jobs, _ in alone.watch.batches) == 1
    with engine_on(pipeline) as engine:
        submit_at_other_phases = _at_other_phases(engine, len(requests))
        answers = [submit_at_other_phases(request) for request in requests]
        for answer in answers:
            answer.wait()
        assert max(jobs for jobs, _ in engine.watch.batches) >= 4, "the edits were meant to share forwards"
        for request, reference in zip(requests, solo, strict=True):
            assert difference(engine.final_latents[request.id], reference) <= BOUND


def _at_other_phases(engine: TestEngine, edits: int) -> Callable[[EditRequest], Answer]:
    """Submits each edit during another step, which waits until it is prepared: it is encoded beside the next, and joins
    the one after that, on any machine."""
    begun: list[None] = []

    def begin_step() -> None:
        begun.append(None)
        wait_until(lambda: engine.worker.prepared >= min(len(begun), edits))
        wait_until(lambda: engine.worker.encodings >= min(len(begun) - 2, edits))

    def submit(request: EditRequest) -> Answer:
        number = len(begun)
        answer = engine.submit(request)
        wait_until(lambda: len(begun) > number)
        return answer

    engine.worker.before_step = begin_step
    return submit


# Each makes one thing wrong that a rewrite could make wrong.

Mutation = Callable[[pytest.MonkeyPatch], None]


def _rows_in_another_order(patch: pytest.MonkeyPatch) -> None:
    right = attention.joined
    patch.setattr(block, "joined", lambda parts: right(parts[::-1]))


def _rotary_positions_one_further(patch: pytest.MonkeyPatch) -> None:
    right = places.in_real_numbers
    patch.setattr(places, "in_real_numbers", lambda angles: right([each.roll(1, 0) for each in angles]))


def _a_row_begins_one_token_late(patch: pytest.MonkeyPatch) -> None:
    right = attention.runs_of

    def runs_of(tokens: Any, *given: Any, **named: Any) -> Any:
        return right([tokens[0] + 1, tokens[1] - 1], *given, **named)

    patch.setattr(places, "runs_of", runs_of)


def _references_modulated_as_the_output(patch: pytest.MonkeyPatch) -> None:
    right = places.times
    patch.setattr(places, "times", lambda numbers, tokens: right([min(each, 1) for each in numbers], tokens))


def _shift_counts_references(patch: pytest.MonkeyPatch) -> None:
    right = sigmas.shift
    patch.setattr(sigmas, "shift", lambda config, tokens: right(config, tokens * 4))


def _no_renormalisation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(denoise, "guided", lambda positive, negative, scale: negative + scale * (positive - negative))


def _renormalised_as_a_whole(patch: pytest.MonkeyPatch) -> None:
    def guided(positive: Any, negative: Any, scale: float) -> Any:
        combined = negative + scale * (positive - negative)
        return combined * (positive.norm() / combined.norm())

    patch.setattr(denoise, "guided", guided)


def _branches_swapped(patch: pytest.MonkeyPatch) -> None:
    right = denoise.guided
    patch.setattr(denoise, "guided", lambda positive, negative, scale: right(negative, positive, scale))


def _timestep_of_the_next_step(patch: pytest.MonkeyPatch) -> None:
    def row(job: Any, *given: Any) -> Any:
        row = right(job, *given)
        step = min(job.step + 1, len(job.sigmas.timesteps) - 1)
        return Row(row.tokens, row.shapes, row.text, float(job.sigmas.timesteps[step]))

    right = denoise.row_of
    patch.setattr(denoise, "row_of", row)


def _reference_latents_swapped(patch: pytest.MonkeyPatch) -> None:
    def encode(self: PipelineWorker, job: Any) -> Any:
        state = right(self, job)
        state.references = state.references[::-1]
        return state

    right = PipelineWorker.encode
    patch.setattr(PipelineWorker, "encode", encode)


def _references_swapped_in_the_text(patch: pytest.MonkeyPatch) -> None:
    def encode(self: Any, prompt: Any, references: Any) -> Any:
        return right(self, prompt, list(reversed(references)))

    right = Conditioner.text_embeddings
    patch.setattr(Conditioner, "text_embeddings", encode)


def _pictures_unnamed(patch: pytest.MonkeyPatch) -> None:
    name = "<|vision_start|><|image_pad|><|vision_end|>"
    patch.setattr("qwen_edit.pipeline.picture_names", lambda count: name * count)


def _rotary_positions_transposed(patch: pytest.MonkeyPatch) -> None:
    def shapes(self: Geometry) -> list[tuple[int, int, int]]:
        output, *references = right(self)
        return [output, *((1, width, height) for _, height, width in references)]

    right = vars(Geometry)["shapes"].fget
    patch.setattr(Geometry, "shapes", property(shapes))


def _noise_drawn_packed(patch: pytest.MonkeyPatch) -> None:
    def noise(self: Pipeline, seed: int, size: Any, frames: int) -> torch.Tensor:
        shape = right(self, seed, size, frames).shape
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    right = Pipeline.noise
    patch.setattr(Pipeline, "noise", noise)


def _three_dimensional_positions(patch: pytest.MonkeyPatch) -> None:
    def init(self: Any, *given: Any, mrope: bool) -> None:
        right(self, *given, mrope=True)

    right = Conditioner.__init__
    patch.setattr(Conditioner, "__init__", init)


def _reference_of_another_area(patch: pytest.MonkeyPatch) -> None:
    right = Sizes.area_of
    patch.setattr(Sizes, "area_of", lambda self, size, area: right(self, size, area * 2))


MUTATIONS: list[Mutation] = [
    _rows_in_another_order, _rotary_positions_one_further, _a_row_begins_one_token_late,
    _references_modulated_as_the_output, _shift_counts_references, _no_renormalisation, _renormalised_as_a_whole,
    _branches_swapped, _timestep_of_the_next_step, _reference_latents_swapped, _references_swapped_in_the_text,
    _pictures_unnamed, _rotary_positions_transposed, _noise_drawn_packed, _three_dimensional_positions,
    _reference_of_another_area,
]  # fmt: skip


@pytest.fixture
def fresh(sensitive: Callable[[str], Path]) -> Any:
    """A transformer that keeps nothing of earlier forwards."""
    return load_pipeline(sensitive("plus-2511"))


def test_the_parity_test_passes_on_the_edit_that_the_mutations_break(fresh: Any, photo: Callable[[str], bytes]) -> None:
    assert _mutated_difference(fresh, photo) <= BOUND


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutation: mutation.__name__.strip("_"))
def test_the_parity_test_fails_when_one_thing_is_wrong(
    fresh: Any, photo: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, mutate: Mutation
) -> None:
    mutate(monkeypatch)
    assert _mutated_difference(fresh, photo) > BOUND


def _mutated_difference(pipeline: Any, photo: Callable[[str], bytes]) -> float:
    request = edit(
        *three_shapes(photo)[:2], prompt=PROMPT, negative_prompt=NEGATIVE, true_cfg_scale=4.0, size=(64, 64),
        num_inference_steps=6,
    )  # fmt: skip
    with engine_on(pipeline, reference_area=SHAPED_AREA) as engine:
        ours = engine.latents(request)
        return difference(ours, oracle(engine, request))
