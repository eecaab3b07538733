"""Qwen-Image-2.1: the engine's latents and pictures equal those of diffusers, and a prefix is computed once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from PIL import Image
from qwen_edit.conditioning import texts
from qwen_edit.errors import BadRequest
from qwen_edit.forward import pipeline21, prefixes
from qwen_edit.forward.prefixes import Segment, segments_of
from qwen_edit.pictures import decoding
from qwen_edit.request import EditRequest

from tests.kit import stock
from tests.kit.engines import TestEngine, difference, edit, engine_on, load_pipeline, together_after_the_first_step

BOUND = 1e-4
SIDE = 128
AREA = SIDE * SIDE
SHAPES = [(300, 200), (160, 160), (100, 300), (200, 250)]
NAMES = ["cat", "astronaut", "coffee", "rocket"]


@pytest.fixture
def pictures(photo: Callable[[str], bytes]) -> list[bytes]:
    return of_four_shapes(photo)


def of_four_shapes(photo: Callable[[str], bytes]) -> list[bytes]:

    def resized(name: str, size: tuple[int, int]) -> bytes:
        file = io.BytesIO()
        Image.open(io.BytesIO(photo(name))).convert("RGB").resize(size).save(file, "PNG")
        return file.getvalue()

    return [resized(name, size) for name, size in zip(NAMES, SHAPES, strict=True)]


def oracle(engine: TestEngine, request: EditRequest, output_type: str = "latent") -> npt.NDArray[np.float32]:
    """The same edit by the diffusers pipeline, with a cache of its own."""
    images = [Image.open(io.BytesIO(image)) for image in request.images]
    # At so small an area diffusers' multiples of 32 are often of another shape than the picture, and then not ours.
    chosen = engine.sizes.geometry([image.size for image in images], None, masked=False).output
    answer = stock.run(
        engine.pipeline.parts,
        images or None,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt if request.guided else None,
        true_cfg_scale=request.true_cfg_scale,
        size=request.size or chosen,
        num_inference_steps=request.num_inference_steps,
        seed=request.seed,
        output_type=output_type,
        output_resolution=SIDE,
    )
    return np.asarray(answer)


@pytest.mark.parametrize("guidance", [1.0, 4.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("references", [0, 1, 2, 10])
@pytest.mark.parametrize("size", [(64, 96), None], ids=["tall", "auto"])
def test_an_edit_alone_has_the_latents_of_diffusers(
    engine: TestEngine, pictures: list[bytes], guidance: float, references: int, size: tuple[int, int] | None
) -> None:
    images = (pictures * 3)[:references]
    request = edit(*images, size=size, true_cfg_scale=guidance, negative_prompt="blurry", seed=7)
    assert difference(engine.latents(request), oracle(engine, request)) <= BOUND


@pytest.mark.parametrize("references", [0, 1, 2, 10])
def test_the_picture_is_that_of_diffusers_with_its_alpha(
    engine: TestEngine, pictures: list[bytes], references: int
) -> None:
    request = edit(*(pictures * 3)[:references], size=(64, 96), true_cfg_scale=1.0 + references % 3)
    ours = engine.submit(request).wait()
    assert ours.image is not None
    assert ours.alpha is not None
    theirs = (oracle(engine, request, "np") * 255).round().astype(int)
    assert np.abs(np.dstack([ours.image, ours.alpha]).astype(int) - theirs).max() <= 1


def test_references_keep_their_alpha(engine: TestEngine, pictures: list[bytes]) -> None:
    with Image.open(io.BytesIO(pictures[0])) as picture:
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        transparent = io.BytesIO()
        picture.save(transparent, "PNG")
    request = edit(transparent.getvalue(), size=(96, 64), seed=2)
    assert difference(engine.latents(request), oracle(engine, request)) <= BOUND
    assert difference(engine.latents(edit(pictures[0], size=(96, 64), seed=2)), oracle(engine, request)) > 10 * BOUND


@pytest.mark.parametrize("levels", [3, 4])
def test_alpha_is_told_where_it_is_not_opaque(levels: int) -> None:
    picture = np.full((4, 4, levels), 255, np.uint8)
    assert decoding.apart(picture)[1] is None
    if levels == 4:
        picture[1, 2, 3] = 254
        alpha = decoding.apart(picture)[1]
        assert alpha is not None
        assert np.array_equal(alpha, picture[..., 3])
        assert (decoding.on_white(picture) == 255).all()


EDITS = st.fixed_dictionaries(
    {
        "references": st.integers(0, 4),
        "size": st.sampled_from([(64, 64), (128, 64), (64, 96), (96, 96), None]),
        "num_inference_steps": st.integers(2, 6),
        "true_cfg_scale": st.sampled_from([1.0, 2.5, 4.0]),
        "prompt": st.sampled_from(["invert", "make the sky green", "a much longer wording " * 6]),
        "negative_prompt": st.sampled_from(["bad", "ugly, " * 9]),
        "seed": st.integers(0, 9),
    }
)


@hypothesis.settings(max_examples=6, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(crowd=st.lists(EDITS, min_size=2, max_size=5))
def test_each_edit_of_any_crowd_has_the_latents_of_diffusers(
    pipeline: Any, photo: Callable[[str], bytes], crowd: list[dict[str, Any]]
) -> None:
    pictures = of_four_shapes(photo)
    requests = [edit(*pictures[: drawn["references"]], **_without_references(drawn)) for drawn in crowd]
    with engine_on(pipeline, reference_area=AREA) as engine:
        together_after_the_first_step(engine, len(requests))
        for answer in [engine.submit(request) for request in requests]:
            answer.wait()
        assert max(map(len, engine.worker.batches)) >= len(requests) - 1, "the edits were meant to share forwards"
        for request in requests:
            assert difference(engine.final_latents[request.id], oracle(engine, request)) <= BOUND


def _without_references(drawn: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in drawn.items() if name != "references"}


@pytest.mark.parametrize("asked", [4, 20])
def test_a_turbo_checkpoint_makes_its_own_number_of_steps(
    sensitive: Callable[[str], Path], pictures: list[bytes], asked: int
) -> None:
    with engine_on(load_pipeline(sensitive("2.1-turbo")), reference_area=AREA) as engine:
        fixed = engine.pipeline.sample_sigmas
        assert fixed is not None
        request = edit(pictures[0], num_inference_steps=len(fixed))
        theirs = oracle(engine, edit(pictures[0], num_inference_steps=asked))
        assert difference(engine.latents(request), theirs) <= BOUND


def test_eleven_references_are_refused(engine: TestEngine, pictures: list[bytes]) -> None:
    with pytest.raises(BadRequest, match=r"11 reference images: .* at most 10"):
        engine.submit(edit(*(pictures * 3)[:11])).wait()


def test_pictures_that_touch_stay_apart() -> None:
    slots = (False, *(True,) * 5, False, False)
    shapes = [(1, 4, 4), (1, 2, 2)]
    assert segments_of(slots, shapes) == [
        Segment(0, 1, is_text=True),
        Segment(1, 17, is_text=False),
        Segment(17, 21, is_text=False),
        Segment(21, 23, is_text=True),
    ]


# Each makes one thing wrong that a rewrite could make wrong.


def _output_begins_elsewhere(patch: pytest.MonkeyPatch) -> None:
    right = prefixes.position_after
    patch.setattr(prefixes, "position_after", lambda *given: right(*given) + 3)


def _text_sees_what_comes_after(patch: pytest.MonkeyPatch) -> None:
    def blind(*given: Any) -> list[Segment]:
        return [Segment(segment.start, segment.stop, is_text=False) for segment in segments_of(*given)]

    patch.setattr(prefixes, "segments_of", blind)


def _prefixes_by_prompt_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(texts.Prompt, "key", property(lambda prompt: ("text", prompt.text)))


def _states_behind_the_last_normalisation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline21, "before_last_norm", lambda encoder: contextlib.nullcontext())


MUTATIONS = [
    _output_begins_elsewhere, _text_sees_what_comes_after, _prefixes_by_prompt_alone,
    _states_behind_the_last_normalisation,
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.__name__))
def test_what_is_wrong_shows(
    pipeline: Any, pictures: list[bytes], mutation: Callable[[pytest.MonkeyPatch], None]
) -> None:
    requests = [edit(pictures[number], prompt="make the sky green", seed=number) for number in range(2)]
    with engine_on(pipeline, reference_area=AREA) as engine:
        right = [oracle(engine, request) for request in requests]
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            wrong = [engine.latents(request) for request in requests]
    assert max(map(difference, wrong, right)) > 10 * BOUND
