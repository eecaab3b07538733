"""Qwen-Image-2.1 through the whole stack: in segments, by the steps that its checkpoint fixes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import requests

from tests.kit.answers import pictures, same
from tests.kit.servers import serve, serve_shim


def test_a_turbo_edit_in_segments_is_that_in_one_piece(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    asked = {"prompt": "make it blue", "size": "96x64", "seed": "5", "steps": "4"}
    files = [("image[]", photo("cat")), ("image[]", photo("coffee"))]
    with (
        serve(sensitive("2.1-turbo"), REFERENCE_AREA="16384", SEGMENT_STEPS="3") as server,
        serve_shim(f"http://{server.triton_http}", SEGMENT_STEPS="0") as whole,
    ):
        answers = [
            requests.post(f"{each.url}/v1/images/edits", data=asked, files=files, timeout=60)
            for each in (server, whole)
        ]
        assert [answer.status_code for answer in answers] == [200, 200], server.log
        opaque = [
            requests.post(f"{server.url}/v1/images/edits", data=asked | more, files=files, timeout=60).json()
            for more in ({"background": "opaque"}, {"output_format": "jpeg"})
        ]
        made = server.metric("qwen_edit_steps_total")
    in_segments, in_one = (pictures(answer.json()) for answer in answers)
    assert in_segments[0].shape == (64, 96, 4)
    assert same(in_segments, in_one)
    assert {(answer.json()["background"], answer.json()["num_inference_steps"]) for answer in answers} == {
        ("transparent", 8)
    }
    assert [answer["background"] for answer in opaque] == ["opaque", "opaque"]
    assert pictures(opaque[0])[0].shape == (64, 96, 3)
    assert made == 4 * 8, "eight steps are what the checkpoint knows"
