"""What a request may say of layers, of a checkpoint that makes them and of one that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qwen_edit.errors import BadRequest
from qwen_edit.families.layering import Layering
from qwen_edit.hints import hints
from qwen_edit.request import Defaults, EditRequest, parse
from qwen_edit.settings import Limits

LAYERED = Defaults(4, 1.0, " ", references=(1, 1), layers=(2, 10), transparent_wording=("", ""))
EDITING = Defaults(4, 1.0, " ")


def parsed(parameters: str, defaults: Defaults = LAYERED, **tensors: Any) -> EditRequest:
    given = {"image": np.array([[b"x"]], object), "prompt": np.array([[b"p"]], object), **tensors}
    return parse(given, Limits(), defaults, request_id="r", now=0.0, unix_now=0.0, hints=hints(parameters))


@pytest.mark.parametrize(
    ("parameters", "layering"),
    [
        ("", Layering(4, 640)),
        ('{"layers": 2}', Layering(2, 640)),
        ('{"layers": 10, "resolution": 1024}', Layering(10, 1024)),
        ('{"background": "transparent"}', Layering()),
    ],
)
def test_what_is_not_said_is_as_usual(parameters: str, layering: Layering) -> None:
    request = parsed(parameters)
    assert request.layering == layering
    assert request.prompt == "p"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('{"layers": 1}', r"layers: 1: a whole number from 2 to 10 is allowed"),
        ('{"layers": 11}', r"layers: 11: "),
        ('{"layers": true}', r"layers: True: "),
        ('{"layers": 2.5}', r"layers: 2\.5: "),
        ('{"layers": "4"}', r"layers: '4': "),
        ('{"resolution": 512}', r"resolution: 512: 640 or 1024 is allowed"),
        ('{"resolution": "640"}', r"resolution: '640': "),
        ('{"layers": 4, "most_layers": 3}', r"layers: 4: a whole number from 2 to 3 is allowed"),
        ('{"most_layers": 2}', r"layers: 4: a whole number from 2 to 2 is allowed"),
        ('{"most_layers": 1}', r"layers: this request may have 1 outputs of each picture: at least 2 are needed"),
        ('{"n": 2}', r"n: 2: a picture is taken apart once: 1 is allowed"),
        ('{"opaque": true}', "background: opaque: layers are transparent: auto or transparent is allowed"),
        ('{"output_format": "jpeg"}', r"output_format: 'jpeg': layers are transparent: png or webp is allowed"),
        ('{"resolution": [640]}', r"resolution: \[640\]: "),
    ],
)
def test_anything_else_is_refused_by_name(parameters: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parsed(parameters)


@pytest.mark.parametrize("parameters", ['{"layers": 4}', '{"resolution": 640}'])
def test_a_checkpoint_that_edits_makes_no_layers(parameters: str) -> None:
    with pytest.raises(BadRequest, match=r"(layers|resolution): \d+: this checkpoint edits pictures"):
        parsed(parameters, EDITING)
    assert parsed("", EDITING).layering is None


def test_neither_a_mask_nor_a_size_goes_with_layers() -> None:
    with pytest.raises(BadRequest, match=r"mask: "):
        parsed("", mask=np.array([[b"x"]], object))
    for width, height in ((64, 64), (-1, -1)):
        with pytest.raises(BadRequest, match=rf"size: {width}x{height}: "):
            parsed("", size=np.array([[width, height]], np.int32))
    assert parsed("", size=np.array([[0, 0]], np.int32)).layering
    assert parsed('{"usual_size": true}', size=np.array([[1024, 1024]], np.int32)).layering


def test_a_prompt_may_be_empty_where_captions_are_written() -> None:
    nothing = np.array([[b" "]], object)
    assert parsed("", replace(LAYERED, captions=True), prompt=nothing).prompt == ""
    with pytest.raises(BadRequest, match="prompt: an empty prompt"):
        parsed("", prompt=nothing)
