"""A word for quality → steps and step cache, relative to the model's own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from qwen_edit.errors import BadRequest
from qwen_edit.families.quality import QUALITIES
from qwen_edit.hints import hints
from qwen_edit.request import Defaults, EditRequest, parse
from qwen_edit.settings import MILD, OFF, Limits

OWN = Defaults(num_inference_steps=40, true_cfg_scale=4.0, negative_prompt=" ")


def request(defaults: Defaults = OWN, parameters: dict[str, str] | None = None, **values: int) -> EditRequest:
    tensors: dict[str, Any] = {name: np.array([[value]], np.int32) for name, value in values.items()}
    tensors |= {name: np.array([[name.encode()]], np.object_) for name in ("image", "prompt")}
    if "start_step" in values:
        tensors["latents"] = np.zeros((1, 16, 64), np.float32)
    said = hints(json.dumps(parameters or {}))
    return parse(tensors, Limits(), defaults, request_id="r", now=0.0, unix_now=0.0, hints=said)


def made(request: EditRequest) -> tuple[int, str, str]:
    return request.num_inference_steps, request.cache, request.quality


@pytest.mark.parametrize(
    ("word", "steps", "cache", "forwards"),
    [("low", 20, MILD, 13), ("medium", 40, MILD, 26), ("high", 40, OFF, 40), ("max", 60, OFF, 60)],
)
@pytest.mark.parametrize("servers", [OFF, MILD])
def test_a_word_is_steps_and_cache_whatever_the_servers_cache(
    word: str, steps: int, cache: str, forwards: int, servers: str
) -> None:
    edit = request(Defaults(40, 4.0, " ", cache=servers), {"quality": word})
    assert made(edit) == (steps, cache, word)
    assert edit.forwards() == forwards


@pytest.mark.parametrize("cache", [OFF, MILD])
def test_auto_and_no_word_are_the_servers_default_and_are_not_told(cache: str) -> None:
    own = Defaults(40, 4.0, " ", cache=cache)
    assert made(request(own)) == made(request(own, {"quality": "auto"})) == (40, cache, "")


def test_steps_and_cache_win_and_the_answer_claims_no_quality_that_was_not_made() -> None:
    assert made(request(OWN, {"quality": "low"}, num_inference_steps=30)) == (30, MILD, "")
    assert made(request(OWN, {"quality": "low", "cache": OFF})) == (20, OFF, "")
    assert made(request(OWN, {"quality": "low", "cache": MILD}, num_inference_steps=20)) == (20, MILD, "low")


@pytest.mark.parametrize("word", QUALITIES)
@pytest.mark.parametrize(
    "distilled", [Defaults(8, 1.0, " "), Defaults(40, 4.0, " ", fixed_steps=20)], ids=["8", "fixed"]
)
def test_what_was_distilled_to_its_steps_makes_no_others(word: str, distilled: Defaults) -> None:
    assert made(request(distilled, {"quality": word})) == made(request(distilled))


def test_no_word_makes_more_steps_than_anyone_may_ask_for() -> None:
    assert made(request(Defaults(90, 4.0, " "), {"quality": "max"})) == (100, OFF, "max")
    assert made(request(Defaults(120, 4.0, " "), {"quality": "high"})) == (120, OFF, "high")
    assert made(request(Defaults(9, 4.0, " "), {"quality": "low"})) == (5, MILD, "low")


def test_a_later_segment_keeps_the_steps_that_it_is_told_and_the_words_cache() -> None:
    assert made(request(OWN, {"quality": "medium"}, num_inference_steps=40, start_step=3, seed=1)) == (
        40,
        MILD,
        "medium",
    )


@pytest.mark.parametrize("word", ["best", "", "HIGH", 1, None, ["low"]])
def test_another_word_is_refused_by_name(word: object) -> None:
    with pytest.raises(BadRequest, match=r"quality: .*one of auto, low, medium, high, max is allowed"):
        hints(json.dumps({"quality": word}))
