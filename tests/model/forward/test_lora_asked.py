"""Which adapters a request asks for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qwen_edit.errors import BadRequest
from qwen_edit.forward.lora_asked import MAX_ADAPTERS, MAX_CHARACTERS, MAX_WEIGHT, Asked, adapters_asked_for


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", ()),
        (" ", ()),
        ("ink", (("ink", 1.0),)),
        ("ink:0.5", (("ink", 0.5),)),
        (" ink : -.5 , oil_2.v1 ", (("ink", -0.5), ("oil_2.v1", 1.0))),
        ('{"ink": 0.5, "oil": 2}', (("ink", 0.5), ("oil", 2.0))),
        ('["ink", "oil:0"]', (("ink", 1.0), ("oil", 0.0))),
        ("[]", ()),
    ],
)
def test_names_have_weights_in_text_or_json(text: str, asked: Asked) -> None:
    assert adapters_asked_for(text) == asked


@pytest.mark.parametrize(
    "text",
    [
        "../ink", "/etc/passwd", "..", ".", ".hidden", "a/b", "a\\b", "a\0", "a\nb", "ink:", "ink:nan", "ink:inf",
        "ink:1e3", "ink:10.1", "ink:-11", "ink:1:2", ":1", ",", "ink,", "ink,ink", "ink:1,ink:2", "a" * 101, "ı", "a b",
        "[1]", "[[]]", "[null]", '{"ink": null}', '{"ink": true}', '{"ink": "1"}', '{"ink": NaN}', '{"ink": Infinity}',
        '{"ink": 1e400}', '{"../ink": 1}', '{"ink": {}}', "{", "[" * 900, ",".join("abcde"), "a," * MAX_CHARACTERS,
        "dir:ink", "~ink", "$HOME", "%2e%2e", "CON:PRN", '{"ink": 1, "ink": 2}',
    ],
)  # fmt: skip
def test_what_is_no_name_or_no_weight_is_refused_by_the_field(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^lora: ") as refused:
        adapters_asked_for(text)
    assert len(str(refused.value)) < 300


@given(st.text())
def test_whatever_is_asked_is_a_few_plain_names_or_refused(text: str) -> None:
    try:
        asked = adapters_asked_for(text)
    except BadRequest:
        return
    assert len(asked) <= MAX_ADAPTERS
    assert all(name.isascii() and "/" not in name and not name.startswith(".") for name, _ in asked)
    assert all(-MAX_WEIGHT <= weight <= MAX_WEIGHT for _, weight in asked)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True), st.floats(-10, 10), max_size=4))
def test_json_says_what_it_says(weights: dict[str, float]) -> None:
    assert dict(adapters_asked_for(json.dumps(weights))) == weights
