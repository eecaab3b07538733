"""The tensor contract, met directly over Triton's HTTP and gRPC."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.kit.answers import grey_levels
from tests.kit.servers import Server

ERROR = re.compile(r"\[[^]]+\] (?P<word>\w+): (?P<tensor>\w+): (?P<detail>.*)", re.DOTALL)
STATUS_400 = ("400", "StatusCode.INVALID_ARGUMENT")
LATENTS = np.zeros((1, 16, 64), np.float32)  # of a 64x64 picture
Infer = Callable[..., dict[str, Any]]


@pytest.fixture
def edit(photo: Callable[[str], bytes]) -> dict[str, Any]:
    """The inputs of a small edit."""
    return {"image": photo("cat"), "prompt": b"make it blue", "size": [64, 64], "seed": 5}


def refusal(infer: Infer, parameters: dict[str, Any] | None = None, **tensors: Any) -> tuple[str, str]:
    """The status and the message of an inference that must fail."""
    with pytest.raises(InferenceServerException) as raised:
        infer(parameters, **tensors)
    return str(raised.value.status()), str(raised.value)


def test_a_finished_edit_has_the_outputs_of_the_contract(infer: Infer, edit: dict[str, Any]) -> None:
    answer = infer(**edit | {"size": [96, 64], "num_inference_steps": 3, "true_cfg_scale": 2.5})
    assert answer.keys() == {"image", "step", "num_inference_steps", "true_cfg_scale", "seed", "timings"}
    assert (answer["image"].dtype, answer["image"].shape) == (np.uint8, (64, 96, 3))
    assert [answer[name].item() for name in ("step", "num_inference_steps", "seed")] == [3, 3, 5]
    assert answer["true_cfg_scale"].item() == 2.5
    timings = json.loads(answer["timings"].item())
    assert timings.keys() >= {"queue", "encode", "denoise", "decode", "rows", "cache_hit"}
    assert timings["rows"] == 2
    assert timings["output_tokens"] == (96 // 16) * (64 // 16)
    assert min(timings["text_tokens"], timings["image_tokens"], timings["denoise"]) > 0


def test_what_is_left_out_takes_the_servers_defaults(infer: Infer, edit: dict[str, Any]) -> None:
    answers = [infer(image=edit["image"], prompt=edit["prompt"]) for _ in range(2)]
    assert {answer["num_inference_steps"].item() for answer in answers} == {2}
    assert {answer["true_cfg_scale"].item() for answer in answers} == {1.0}
    seeds = [answer["seed"].item() for answer in answers]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 2**32 for seed in seeds)
    height, width, _ = answers[0]["image"].shape
    assert 4096 / 2 <= width * height <= 4096 * 2


def test_zero_by_zero_is_the_automatic_size(infer: Infer, edit: dict[str, Any]) -> None:
    auto, left_out = infer(**edit | {"size": [0, 0]}), infer(**{k: v for k, v in edit.items() if k != "size"})
    assert np.array_equal(auto["image"], left_out["image"])


def test_a_size_is_answered_exactly(infer: Infer, edit: dict[str, Any]) -> None:
    assert infer(**edit | {"size": [79, 65]})["image"].shape == (65, 79, 3)


def test_the_size_of_the_source_is_its_own(infer: Infer, edit: dict[str, Any], photo: Callable[[str], bytes]) -> None:
    with Image.open(io.BytesIO(photo("cat"))) as picture:
        own = io.BytesIO()
        picture.resize((210, 140)).save(own, "PNG")
    assert infer(**edit | {"size": [-1, -1], "image": own.getvalue()})["image"].shape == (140, 210, 3)


@pytest.mark.usefixtures("alone")
def test_http_and_grpc_answer_the_same_pixels(http_infer: Infer, grpc_infer: Infer, edit: dict[str, Any]) -> None:
    assert np.array_equal(http_infer(**edit)["image"], grpc_infer(**edit)["image"])


def test_the_same_seed_gives_the_same_pixels_and_another_gives_others(infer: Infer, edit: dict[str, Any]) -> None:
    first, again, other = infer(**edit), infer(**edit), infer(**edit | {"seed": 6})
    assert np.array_equal(first["image"], again["image"])
    assert grey_levels(first["image"], other["image"]) > 1


def test_the_largest_seed_is_taken(infer: Infer, edit: dict[str, Any]) -> None:
    assert infer(**edit | {"seed": 2**63 - 1})["seed"].item() == 2**63 - 1


def test_guidance_follows_the_scale_and_the_negative_prompt(infer: Infer, edit: dict[str, Any]) -> None:
    plain = infer(**edit)
    guided = infer(**edit | {"true_cfg_scale": 6.0, "negative_prompt": b"blurry, low quality"})
    assert [json.loads(answer["timings"].item())["rows"] for answer in (plain, guided)] == [1, 2]
    assert grey_levels(plain["image"], guided["image"]) > 1
    for off in ({"true_cfg_scale": 1.0}, {"true_cfg_scale": 6.0, "negative_prompt": b""}):
        assert np.array_equal(infer(**edit | off)["image"], plain["image"])


def test_references_are_taken_in_order(infer: Infer, edit: dict[str, Any], photo: Callable[[str], bytes]) -> None:
    cat, coffee = photo("cat"), photo("coffee")
    one, two, swapped = (infer(**edit | {"image": images})["image"] for images in (cat, [cat, coffee], [coffee, cat]))
    assert grey_levels(one, two) > 1
    assert grey_levels(two, swapped) > 1


@pytest.mark.parametrize("cfg", [1.0, 4.0], ids=["unguided", "guided"])
def test_segments_give_the_one_piece_run_bit_for_bit(infer: Infer, edit: dict[str, Any], cfg: float) -> None:
    edit |= {"num_inference_steps": 6, "true_cfg_scale": cfg, "arrival": time.time()}
    whole = infer(**edit)
    stopped = infer(**edit | {"stop_step": 2})
    assert "image" not in stopped
    assert (stopped["step"].item(), stopped["num_inference_steps"].item()) == (2, 6)
    assert (stopped["latents"].dtype, stopped["latents"].shape) == (np.float32, (16, 64))
    stopped = infer(**edit | {"start_step": 2, "stop_step": 4, "latents": stopped["latents"][None]})
    rest = infer(**edit | {"start_step": 4, "latents": stopped["latents"][None]})
    assert rest["step"].item() == 6
    assert np.array_equal(rest["image"], whole["image"])


@pytest.mark.parametrize("longest_side", [0, 32, 1024])
def test_a_preview_comes_where_one_is_asked_for(infer: Infer, edit: dict[str, Any], longest_side: int) -> None:
    edit |= {"size": [96, 64], "num_inference_steps": 4, "stop_step": 2}
    answer = infer(**edit | {"preview": longest_side})
    assert ("preview_image" in answer) == (longest_side > 0)
    if longest_side:
        height, width, _ = answer["preview_image"].shape
        assert width <= min(longest_side, 96)
        assert width > height
        assert answer["preview_image"].std() > 0
    without = infer(**edit)
    assert np.array_equal(answer["latents"], without["latents"])


INVALID = [
    ("prompt", b" "),
    ("prompt", b"\xff"),
    ("prompt", b"x" * 32_001),
    ("image", b""),
    ("image", b"not a picture"),
    ("image", np.zeros((1, 0), np.object_)),
    ("negative_prompt", b"\xff"),
    ("mask", b"not a picture"),
    ("markup", b"not a picture"),
    ("lora", b"../../etc/passwd"),
    ("lora", b"ink"),
    ("size", [63, 64]),
    ("size", [4096, 64]),
    ("size", [2048, 2048]),
    ("size", [1024, 64]),
    ("size", [0, 64]),
    ("size", [-64, 64]),
    ("num_inference_steps", 1),
    ("num_inference_steps", 101),
    ("true_cfg_scale", -0.5),
    ("true_cfg_scale", 20.5),
    ("true_cfg_scale", float("nan")),
    ("seed", -1),
    ("start_step", -1),
    ("start_step", 2),
    ("stop_step", 0),
    ("stop_step", -2),
    ("latents", LATENTS),
    ("preview", -1),
    ("preview", 1025),
    ("arrival", float("inf")),
    ("arrival", float("nan")),
]


@pytest.mark.parametrize(("tensor", "value"), INVALID, ids=lambda value: f"{value!r:.20}")
def test_a_bad_value_is_invalid_and_names_its_tensor(
    infer: Infer, edit: dict[str, Any], tensor: str, value: object
) -> None:
    status, message = refusal(infer, **edit | {tensor: value})
    assert status in STATUS_400
    match = ERROR.fullmatch(message)
    assert match, message
    assert (match["word"], match["tensor"]) == ("invalid", tensor)
    assert match["detail"]


def test_an_edits_place_is_told_by_parameters_over_both_protocols(infer: Infer, edit: dict[str, Any]) -> None:
    told = {"age": 1.5, "time_left": "290.5", "order": -0.25, "caller": "ü", "siblings": 2, "of_another_release": True}
    assert "image" in infer(told, **edit)


@pytest.mark.parametrize(("name", "value"), [("age", "soon"), ("time_left", True), ("caller", "x" * 65)], ids=str)
def test_a_bad_parameter_is_invalid_and_named(infer: Infer, edit: dict[str, Any], name: str, value: object) -> None:
    status, message = refusal(infer, {name: value}, **edit)
    assert status in STATUS_400
    assert f"invalid: {name}: " in message


@pytest.mark.parametrize("count", [4, 17])
def test_too_many_references_are_invalid_and_told_the_limit(infer: Infer, edit: dict[str, Any], count: int) -> None:
    status, message = refusal(infer, **edit | {"image": [edit["image"]] * count})
    assert status in STATUS_400
    assert f"invalid: image: {count} reference images" in message
    assert "3" in message


def test_a_continued_run_needs_its_latents_its_seed_and_the_right_shape(infer: Infer, edit: dict[str, Any]) -> None:
    unseeded = {name: value for name, value in edit.items() if name != "seed"}
    nan = np.full_like(LATENTS, np.nan)
    for tensors, tensor in (
        (edit, "latents"),
        (unseeded | {"latents": LATENTS}, "seed"),
        (edit | {"latents": LATENTS[:, 1:]}, "latents"),
        (edit | {"latents": nan}, "latents"),
    ):
        status, message = refusal(infer, **tensors | {"start_step": 1})
        assert status in STATUS_400
        assert f"invalid: {tensor}: " in message


@pytest.mark.parametrize("tensor", ["image", "prompt"])
def test_a_required_tensor_that_is_missing_is_invalid(infer: Infer, edit: dict[str, Any], tensor: str) -> None:
    del edit[tensor]
    status, message = refusal(infer, **edit)
    assert status in STATUS_400
    assert f"invalid: {tensor}: " in message


WRONG_SHAPES = {
    "prompt": [b"one", b"two"], "negative_prompt": [b"one", b"two"], "mask": [b"one", b"two"], "size": [64, 64, 64],
    "markup": [b"one", b"two"], "lora": [b"one", b"two"],
    "num_inference_steps": [2, 2], "true_cfg_scale": [1.0, 1.0], "seed": [1, 1], "start_step": [0, 0],
    "stop_step": [1, 1], "latents": LATENTS[None], "preview": [0, 0], "arrival": [0.0, 0.0],
}  # fmt: skip
WRONG_TYPES = {
    "image": np.zeros((1, 1), np.uint8), "prompt": np.zeros((1, 1), np.uint8),
    "negative_prompt": np.zeros((1, 1), np.int32), "mask": np.zeros((1, 1), np.uint8),
    "markup": np.zeros((1, 1), np.uint8), "lora": np.zeros((1, 1), np.uint8), "size": np.full((1, 2), 64, np.int64),
    "num_inference_steps": np.full((1, 1), 2, np.int64),
    "true_cfg_scale": np.ones((1, 1), np.float64), "seed": np.ones((1, 1), np.int32),
    "start_step": np.zeros((1, 1), np.int64), "stop_step": np.zeros((1, 1), np.float32),
    "latents": LATENTS.astype(np.float16), "preview": np.zeros((1, 1), np.float32),
    "arrival": np.zeros((1, 1), np.float32),
}  # fmt: skip


@pytest.mark.parametrize(
    ("tensor", "value"),
    [*WRONG_SHAPES.items(), *WRONG_TYPES.items()],
    ids=[*(f"{name} shape" for name in WRONG_SHAPES), *(f"{name} type" for name in WRONG_TYPES)],
)
def test_a_wrong_shape_or_type_is_refused_by_triton_with_the_tensors_name(
    infer: Infer, edit: dict[str, Any], tensor: str, value: object
) -> None:
    status, message = refusal(infer, **edit | {tensor: value})
    assert status in STATUS_400
    assert f"'{tensor}'" in message


def test_a_refused_request_is_counted(alone: Server, http_infer: Infer, edit: dict[str, Any]) -> None:
    before = alone.metric("qwen_edit_edits_total", outcome="refused")
    refusal(http_infer, **edit | {"seed": -1})
    assert alone.metric("qwen_edit_edits_total", outcome="refused") == before + 1


def test_a_cancelled_grpc_call_stops_making_steps(
    alone: Server, begin: Callable[..., tuple[Any, list[Any]]], edit: dict[str, Any]
) -> None:
    steps, cancelled = (
        alone.metric("qwen_edit_steps_total"),
        alone.metric("qwen_edit_edits_total", outcome="cancelled"),
    )
    with tritonclient.grpc.InferenceServerClient(alone.triton_grpc) as client:
        call, outcomes = begin(client, **edit | {"size": [512, 512], "num_inference_steps": 100})
        alone.wait_for(lambda: alone.metric("qwen_edit_steps_total") >= steps + 2)
        call.cancel()
        alone.wait_for(lambda: alone.metric("qwen_edit_edits_total", outcome="cancelled") == cancelled + 1)
    alone.wait_for(lambda: alone.metric("qwen_edit_jobs") == 0)
    made = alone.metric("qwen_edit_steps_total") - steps
    assert 2 <= made < 100
    time.sleep(0.3)
    assert alone.metric("qwen_edit_steps_total") - steps == made
    assert "cancelled" in str(outcomes[0]).lower()
