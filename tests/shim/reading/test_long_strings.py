from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidInput
from shim.reading import long_strings
from shim.reading.long_strings import LONG_BYTES, MAX_QUOTES, MAX_REST_BYTES, LongStrings

ALL = 2**30  # bytes
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('a"\\/\nέ😀', max_size=12),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text('k"\\'), values, max_size=4),
)


def restored(parsed: Any, strings: LongStrings) -> Any:
    if isinstance(parsed, str):
        return strings.original("field", parsed, ALL)
    if isinstance(parsed, list):
        return [restored(value, strings) for value in parsed]
    if isinstance(parsed, dict):
        return {restored(name, strings): restored(value, strings) for name, value in parsed.items()}
    return parsed


@given(JSON, st.booleans(), st.integers(0, 8))
def test_the_rest_and_the_long_strings_are_the_whole(value: Any, escaped: bool, long_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_strings, "LONG_BYTES", long_bytes)
        strings = LongStrings(json.dumps(value, ensure_ascii=escaped).encode())
    assert restored(json.loads(strings.rest), strings) == value


def test_only_long_strings_are_taken_out() -> None:
    strings = LongStrings(json.dumps({"a": "x" * LONG_BYTES, "b": "y" * (LONG_BYTES + 1)}).encode())
    parsed = json.loads(strings.rest)
    assert parsed["a"] == "x" * LONG_BYTES
    assert len(parsed["b"]) < 50
    assert strings.original("b", parsed["b"], ALL) == "y" * (LONG_BYTES + 1)


def test_a_long_string_has_a_limit_where_it_is_used() -> None:
    strings = LongStrings(json.dumps(["x" * 100_000]).encode())
    (word,) = json.loads(strings.rest)
    with pytest.raises(InvalidInput, match="prompt has 100000 bytes, at most 99999 are allowed") as caught:
        strings.original("prompt", word, 99_999)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("raw", [b"\xff", b"\\x", b"\n\\n"], ids=["not UTF-8", "not an escape", "control character"])
def test_a_long_string_that_is_none_is_refused(raw: bytes) -> None:
    strings = LongStrings(b'["' + raw + b"x" * LONG_BYTES + b'"]')
    (word,) = json.loads(strings.rest)
    with pytest.raises(InvalidInput, match="image is not a JSON string in UTF-8"):
        strings.original("image", word, ALL)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" + b"[]," * (MAX_REST_BYTES // 3) + b"[]]", "more than 2097152 bytes beside its long strings"),
        (b'["' + b"x" * MAX_REST_BYTES, "more than 2097152 bytes beside its long strings"),
        (b'["' + b'\\"' * MAX_QUOTES + b'"]', "more than 262144 quotation marks"),
        (b'["' + b'","' * MAX_QUOTES + b'"]', "more than 262144 quotation marks"),
    ],
    ids=["many lists", "a string without an end", "quotes in a string", "many strings"],
)
def test_what_would_keep_the_parser_busy_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        LongStrings(body)


@given(st.binary() | st.text('"\\').map(str.encode))
def test_any_body_is_cut(body: bytes) -> None:
    assert LongStrings(body).rest == body
