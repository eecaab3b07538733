"""Requests of several edits, over Triton's HTTP and gRPC."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.kit.answers import grey_levels
from tests.kit.servers import Server

Infer = Callable[..., dict[str, Any]]

PROMPTS = [b"make it blue", b"a winter's day, and far more words than the others have", b"make it blue"]
SEEDS, STEPS, SCALES = [5, 6, 7], [3, 4, 2], [1.0, 1.0, 2.5]


@pytest.fixture
def three(photo: Callable[[str], bytes]) -> dict[str, Any]:
    """The inputs of three edits; they differ in all that those of one request may differ in."""
    pictures = [photo("cat"), photo("coffee"), photo("cat")]
    return {
        "image": np.array([[picture] for picture in pictures], np.object_),
        "prompt": np.array([[prompt] for prompt in PROMPTS], np.object_),
        "size": np.array([[96, 64]] * 3, np.int32),
        "seed": np.array([[seed] for seed in SEEDS], np.int64),
        "num_inference_steps": np.array([[steps] for steps in STEPS], np.int32),
        "true_cfg_scale": np.array([[scale] for scale in SCALES], np.float32),
    }


def refusal(rows: Infer, tensors: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(InferenceServerException) as raised:
        rows(**tensors | changes)
    return str(raised.value)


def test_a_batch_is_its_edits_sent_singly(rows: Infer, three: dict[str, Any]) -> None:
    together = rows(**three)

    assert together["image"].shape == (3, 64, 96, 3)
    for row in range(3):
        alone = rows(**{name: tensor[row : row + 1] for name, tensor in three.items()})
        assert together.keys() == alone.keys()
        assert grey_levels(together["image"][row], alone["image"][0]) <= 1
        for name in ("step", "num_inference_steps", "true_cfg_scale", "seed"):
            assert together[name][row] == alone[name][0]
    assert [json.loads(row.item())["output_tokens"] for row in together["timings"]] == [24] * 3


BAD = {"prompt": b" ", "seed": -1, "image": b"not a picture", "size": [64, 64]}


@pytest.mark.parametrize("tensor", BAD)
def test_one_bad_row_refuses_the_request_and_is_named(
    alone: Server, rows: Infer, three: dict[str, Any], tensor: str
) -> None:
    finished = alone.metric("qwen_edit_edits_total", outcome="finished")
    bad = three[tensor].copy()
    bad[1] = BAD[tensor]

    # Of two pictures of different size, either was there first.
    named = {"size": "[12]"}.get(tensor, "2")
    with pytest.raises(InferenceServerException, match=f"invalid: {tensor}: row {named} of 3: "):
        rows(**three | {tensor: bad})

    alone.wait_for(lambda: alone.metric("qwen_edit_jobs") == 0)
    assert alone.metric("qwen_edit_edits_total", outcome="finished") == finished
    assert rows(**three)["image"].shape == (3, 64, 96, 3)


def test_segments_stay_one_edit_a_request(rows: Infer, three: dict[str, Any]) -> None:
    message = refusal(rows, three, stop_step=np.array([[-1], [2], [-1]], np.int32))
    assert "invalid: stop_step: row 2 of 3: 2: " in message
    message = refusal(rows, three, latents=np.zeros((3, 24, 64), np.float32))
    assert "invalid: latents: row 1 of 3: " in message


def test_a_batch_is_no_larger_than_the_configuration_says_and_the_same_for_all_inputs(
    rows: Infer, three: dict[str, Any]
) -> None:
    nine = {name: np.concatenate([tensor] * 3) for name, tensor in three.items()}
    assert "batch-size must be <= 8" in refusal(rows, nine)
    assert "'seed' batch size does not match" in refusal(rows, three, seed=np.zeros((2, 1), np.int64))


def test_a_cancelled_batch_ends_all_its_edits(
    alone: Server, begin: Callable[..., tuple[Any, list[Any]]], three: dict[str, Any]
) -> None:
    steps, cancelled = (
        alone.metric("qwen_edit_steps_total"),
        alone.metric("qwen_edit_edits_total", outcome="cancelled"),
    )
    long = three | {"size": np.array([[512, 512]] * 3, np.int32), "num_inference_steps": np.full((3, 1), 100, np.int32)}
    with tritonclient.grpc.InferenceServerClient(alone.triton_grpc) as client:
        call, outcomes = begin(client, **long)
        alone.wait_for(lambda: alone.metric("qwen_edit_steps_total") >= steps + 2)
        call.cancel()
        alone.wait_for(lambda: alone.metric("qwen_edit_edits_total", outcome="cancelled") == cancelled + 3)
    alone.wait_for(lambda: alone.metric("qwen_edit_jobs") == 0)
    assert "cancelled" in str(outcomes[0]).lower()
