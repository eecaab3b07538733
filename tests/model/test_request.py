"""Tensors → EditRequest: defaults, ranges, and errors that name the tensor and the value."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from qwen_edit.errors import BadRequest
from qwen_edit.hints import NO_HINTS, Hints, asks_about, hints
from qwen_edit.request import TENSORS, Defaults, EditRequest, cancelled, parse
from qwen_edit.settings import Limits

NOW = 1_800_000_000.0
DEFAULTS = Defaults(num_inference_steps=8, true_cfg_scale=4.0, negative_prompt=" ")
DTYPES = {
    "image": np.object_, "prompt": np.object_, "negative_prompt": np.object_, "mask": np.object_, "size": np.int32,
    "markup": np.object_, "lora": np.object_,
    "num_inference_steps": np.int32, "true_cfg_scale": np.float32, "seed": np.int64, "start_step": np.int32,
    "stop_step": np.int32, "latents": np.float32, "preview": np.int32, "arrival": np.float64,
}  # fmt: skip


def request(said: Hints = NO_HINTS, **values: Any) -> EditRequest:
    return request_of(DEFAULTS, said, **values)


def request_of(defaults: Defaults, said: Hints = NO_HINTS, **values: Any) -> EditRequest:
    """Parses a minimal request with `values`, each without its batch dimension."""
    given: dict[str, Any] = {"image": [b"picture"], "prompt": [b"make it blue"]}
    given |= values
    tensors = {name: np.array([value], dtype=DTYPES[name]) for name, value in given.items() if value is not None}
    return parse(tensors, Limits(), defaults, request_id="r", now=NOW, unix_now=NOW, hints=said)


def test_adapters_are_asked_for_by_name_and_told_back_as_a_parameter() -> None:
    assert request(lora=[b"ink:0.5,oil"]).lora == (("ink", 0.5), ("oil", 1.0))
    assert request(lora=[b""]).lora == request().lora == ()
    with pytest.raises(BadRequest, match=r"^lora: "):
        request(lora=[b"\xff"])
    assert request(hints('{"adapters": ""}')).adapters == ""
    assert request().adapters is None


def test_what_is_left_out_gets_its_default() -> None:
    parsed = request()
    assert (parsed.num_inference_steps, parsed.true_cfg_scale, parsed.negative_prompt) == (8, 4.0, " ")
    assert (parsed.start_step, parsed.stop_step, parsed.size, parsed.mask, parsed.preview) == (0, 8, None, None, 0)
    assert 0 <= parsed.seed < 2**32
    assert parsed.arrival == NOW
    assert parsed.guided
    assert request().seed != request().seed


@pytest.mark.parametrize(
    ("values", "guided"),
    [({"true_cfg_scale": [1.0]}, False), ({"negative_prompt": [b""]}, False), ({"true_cfg_scale": [1.5]}, True)],
    ids=str,
)
def test_guidance_needs_a_scale_over_one_and_a_negative_prompt(values: dict[str, Any], guided: bool) -> None:
    assert request(**values).guided is guided


def test_line_ends_are_those_of_one_system() -> None:
    assert request(prompt=[b"  a\r\nb \n"]).prompt == "a\nb"


@pytest.mark.parametrize(("given", "used"), [(NOW + 99, NOW), (NOW - 9, NOW - 9), (0.0, NOW - 3600)])
def test_arrival_is_never_in_the_future_nor_over_an_hour_ago(given: float, used: float) -> None:
    assert request(arrival=[given]).arrival == used


def test_the_hints_are_seconds_from_now() -> None:
    said = hints('{"age": 9, "time_left": 290.5, "order": "-3.5", "caller": "ü", "siblings": 4, "unknown": true}')
    parsed = request(said, arrival=[0.0])
    assert (parsed.arrival, parsed.deadline, parsed.order) == (NOW - 9, NOW + 290.5, NOW - 3.5)
    assert (parsed.caller, parsed.siblings, parsed.dated) == ("ü", 4, True)


def test_a_continued_edit_may_name_its_pictures_and_a_first_call_may_not() -> None:
    said = hints(json.dumps({"pictures": "ab" * 32 + "," + "cd" * 32}))
    continued = {"start_step": [2], "seed": [1], "latents": LATENTS}
    named = request(said, image=None, **continued)
    assert (named.images, named.pictures) == ((), (b"\xab" * 32, b"\xcd" * 32))
    assert request(said, **continued).pictures == ()
    many = hints(json.dumps({"pictures": ",".join(["ab" * 32] * 4)}))
    with pytest.raises(BadRequest, match="image: 4 reference images: 1 to 3 are allowed"):
        request(many, image=None, **continued)
    with pytest.raises(BadRequest, match="image: at least one"):
        request(said, image=None)


def test_a_transparent_background_is_asked_for_in_the_authors_words_and_once() -> None:
    transparent = hints('{"background": "transparent"}')
    able = replace(DEFAULTS, transparent_wording=("Before: ", " after."))
    worded = request_of(able, transparent).prompt
    assert worded == "Before: make it blue after."
    assert request_of(able, transparent, prompt=[worded.encode()]).prompt == worded
    assert request_of(able, NO_HINTS).prompt == "make it blue"
    with pytest.raises(BadRequest, match="background: transparent: pictures of this checkpoint are opaque"):
        request(transparent)


def test_a_checkpoint_may_need_no_picture_and_fix_the_steps() -> None:
    able = replace(DEFAULTS, references=(0, 3), fixed_steps=8)
    assert request_of(able, NO_HINTS, image=None, num_inference_steps=[4]).num_inference_steps == 8
    assert request_of(able, NO_HINTS, image=None).images == ()
    with pytest.raises(BadRequest, match="mask: a mask without a reference image"):
        request_of(able, NO_HINTS, image=None, mask=[b"mask"])
    with pytest.raises(BadRequest, match="markup: a markup without a reference image"):
        request_of(able, NO_HINTS, image=None, markup=[b"drawing"])
    with pytest.raises(BadRequest, match="image: at least one encoded reference image is needed"):
        request(image=None)


def test_a_drawing_and_a_mask_exclude_each_other() -> None:
    assert request(markup=[b"drawing"], mask=[b""]).markup == b"drawing"
    assert request(markup=[b""], mask=[b"mask"]).markup is None
    with pytest.raises(BadRequest, match="markup: a drawing beside a mask: one of the two is allowed"):
        request(markup=[b"drawing"], mask=[b"mask"])


def test_a_call_may_ask_what_the_model_can() -> None:
    assert asks_about('{"about": true}')
    assert not any(map(asks_about, ("", "{}", '{"about": false}', '{"about": 1}')))


def test_siblings_are_those_that_come_to_one_instance() -> None:
    assert hints('{"siblings": 10}', instances=4).siblings == 3
    assert hints("{}", instances=4).siblings == 1


def test_what_no_hint_says_makes_no_difference() -> None:
    parsed = request(hints(""))
    assert (parsed.arrival, parsed.deadline, parsed.order) == (NOW, math.inf, None)
    assert (parsed.caller, parsed.siblings, parsed.dated) == ("", 1, False)


@pytest.mark.parametrize(
    ("said", "used"), [({"age": -5}, (NOW, math.inf)), ({"age": 1e300, "time_left": 1e300}, (NOW - 3600, NOW + 3600))]
)
def test_seconds_beyond_reason_are_brought_into_it(said: dict[str, float], used: tuple[float, float]) -> None:
    parsed = request(hints(json.dumps(said)))
    assert (parsed.arrival, parsed.deadline) == used


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"age": "soon"}, "invalid: age: 'soon': a number of seconds is allowed"),
        ({"time_left": "nan"}, "invalid: time_left: 'nan'"),
        ({"time_left": True}, "invalid: time_left: True"),
        ({"order": 10**400}, "invalid: order: 1000"),
        ({"caller": 1}, "invalid: caller: 1: a text of at most 64 characters is allowed"),
        ({"caller": "x" * 65}, "invalid: caller: 'xxx"),
        ({"pictures": "ab" * 31}, "invalid: pictures: 'abab"),
        ({"pictures": ",".join(["ab" * 32] * 17)}, "invalid: pictures: 'abab"),
        ({"pictures": 1}, "invalid: pictures: 1"),
        ({"siblings": 0}, "invalid: siblings: 0: a whole number from 1 to 160 is allowed"),
        ({"siblings": 161}, "invalid: siblings: 161: a whole number from 1 to 160 is allowed"),
        ({"siblings": "2"}, "invalid: siblings: '2'"),
        ({"background": "green"}, "invalid: background: 'green': auto or transparent is allowed"),
        ({"background": ["transparent"]}, "invalid: background: "),
    ],
    ids=str,
)
def test_a_hint_that_cannot_be_is_an_error_that_names_it(said: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as error:
        hints(json.dumps(said))
    assert error.value.message.startswith(message)


LATENTS = [[0.5] * 64] * 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": [b"x"] * 4}, "invalid: image: 4 reference images: 1 to 3 are allowed"),
        ({"image": [b"x", b""]}, "invalid: image: reference image 2 is empty"),
        ({"image": []}, "invalid: image: 0 reference images"),
        ({"image": None}, "invalid: image: at least one"),
        ({"prompt": [b" \n "]}, "invalid: prompt: an empty prompt"),
        ({"prompt": [b"\xff\xfe"]}, "is not UTF-8"),
        ({"prompt": [b"x" * 32001]}, "invalid: prompt: 32001 characters: at most 32000"),
        ({"size": [63, 64]}, "invalid: size: 63x64: 64 to 2048 pixels a side"),
        ({"size": [2048, 2048]}, "invalid: size: 2048x2048 is 4194304 pixels: at most 2359296"),
        ({"size": [64, 1024]}, "invalid: size: 64x1024: aspect ratios from 1:8 to 8:1"),
        ({"size": [-1, 64]}, "invalid: size: -1x64"),
        ({"size": [1, 2, 3]}, r"invalid: size: shape \[1, 3\] of int32: \[1, 2\] is allowed"),
        ({"num_inference_steps": [1]}, "invalid: num_inference_steps: 1: 2 to 100 is allowed"),
        ({"num_inference_steps": [101]}, "invalid: num_inference_steps: 101"),
        ({"true_cfg_scale": [float("nan")]}, "invalid: true_cfg_scale: nan: 0 to 20 is allowed"),
        ({"true_cfg_scale": [20.5]}, "invalid: true_cfg_scale: 20.5"),
        ({"seed": [-1]}, "invalid: seed: -1: 0 to 9223372036854775807"),
        ({"start_step": [8], "latents": LATENTS, "seed": [1]}, "invalid: start_step: 8: less than"),
        ({"start_step": [2], "seed": [1]}, "invalid: latents: missing"),
        ({"start_step": [2], "latents": LATENTS}, "invalid: seed: a continued run"),
        ({"latents": LATENTS}, "invalid: latents: latents without start_step"),
        ({"start_step": [2], "latents": [[float("nan")]], "seed": [1]}, "invalid: latents: NaN"),
        ({"start_step": [2], "latents": [[-2e4]], "seed": [1]}, "invalid: latents: values over 10000"),
        ({"stop_step": [0]}, "invalid: stop_step: 0: more than start_step"),
        ({"start_step": [3], "stop_step": [3], "latents": LATENTS, "seed": [1]}, "invalid: stop_step: 3"),
        ({"stop_step": [-2]}, "invalid: stop_step: -2"),
        ({"preview": [2000]}, "invalid: preview: 2000: 0 to 1024"),
        ({"arrival": [float("inf")]}, "invalid: arrival: inf"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_value_out_of_range_is_an_error_that_names_it(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as error:
        request(**values)
    assert re.search(message, error.value.message), error.value.message


def test_an_edit_has_one_row() -> None:
    tensors = {"image": np.array([[b"a"], [b"b"]], object), "prompt": np.array([[b"x"], [b"y"]], object)}
    with pytest.raises(BadRequest, match="image: batch size 2: 1 is allowed"):
        parse(tensors, Limits(), DEFAULTS, request_id="", now=NOW, unix_now=NOW)


def test_an_id_in_the_log_is_printable_and_short() -> None:
    tensors = {"image": np.array([[b"a"]], object), "prompt": np.array([[b"x"]], object)}
    assert (
        parse(tensors, Limits(), DEFAULTS, request_id="a\nb\x1b" + "c" * 500, now=NOW, unix_now=NOW).id
        == "a?b?" + "c" * 124
    )
    assert parse(tensors, Limits(), DEFAULTS, request_id="", now=NOW, unix_now=NOW).id


def any_tensor() -> st.SearchStrategy[Any]:
    dtypes = st.sampled_from([np.int32, np.int64, np.float32, np.float64, np.uint8])
    numbers = dtypes.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, max_side=3)))
    texts = npst.arrays(np.object_, npst.array_shapes(min_dims=1, max_dims=3, max_side=3), elements=st.binary())
    return st.one_of(numbers, texts)


@given(st.dictionaries(st.sampled_from(sorted(TENSORS)), any_tensor()))
def test_no_tensors_whatever_end_in_anything_but_a_request_or_an_error_of_ours(tensors: dict[str, Any]) -> None:
    try:
        parsed = parse(tensors, Limits(), DEFAULTS, request_id="", now=NOW, unix_now=NOW)
    except BadRequest:
        pass
    else:
        assert 0 <= parsed.start_step < parsed.stop_step <= parsed.num_inference_steps


def test_a_call_that_cancels_names_a_request() -> None:
    assert cancelled({"prompt": np.array([["x"]], np.object_)}) is None
    assert cancelled({"cancel": np.array([[b"edit-1"]], np.object_)}) == "edit-1"


@pytest.mark.parametrize("value", [[[b""]], [[b"x" * 257]], [[b"a", b"b"]], [[b"a"], [b"b"]]], ids=str)
def test_a_call_that_cancels_nothing_is_refused(value: list[list[bytes]]) -> None:
    with pytest.raises(BadRequest, match=r"^cancel: "):
        cancelled({"cancel": np.array(value, np.object_)})
