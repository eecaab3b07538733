from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.dialect import dialect_of_parts
from shim.errors import InvalidInput
from shim.reading.edit import Edit, edit_of
from shim.reading.fields import json_kinds
from shim.reading.json_body import read_json
from shim.reading.kinds import Json
from shim.reading.uploads import Part
from shim.settings import Settings

NAMES = {kind: [name for name, json_kind in json_kinds().items() if json_kind == kind] for kind in get_args(Json)}
STRINGS, NUMBERS, BOOLEANS = NAMES["string"], NAMES["number"], NAMES["boolean"]
IMAGE = {"image_url": "data:image/png;base64,aGVsbG8="}


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def parts_of(body: Any, opened: ExitStack) -> list[Part]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_json(io.BytesIO(raw), opened)


def parse(opened: ExitStack, **fields: Any) -> Edit:
    parts = parts_of({"prompt": "p", "images": [IMAGE], **fields}, opened)
    return edit_of(parts, dialect_of_parts(parts, "openai"), Settings(max_references=3))


def test_it_is_the_edit_that_the_form_would_be(opened: ExitStack) -> None:
    edit = parse(
        opened,
        images=[IMAGE, {**IMAGE, "file_id": None, "detail": "high"}],
        mask=IMAGE,
        prompt=" one\r\ntwo ",
        negative_prompt=" ",
        n=2,
        size="64x128",
        seed=2**63 - 1,
        steps=4.0,
        cfg=1.5,
        output_format="webp",
        output_compression=50,
        stream=False,
    )
    assert edit.dialect == "openai"
    assert (edit.prompt, edit.negative_prompt) == ("one\ntwo", " ")
    assert [picture.upload.file.read() for picture in edit.pictures if not picture.upload.file.seek(0)] == [
        b"hello"
    ] * 3
    assert (edit.variants, edit.size, edit.seed) == (2, (64, 128), 2**63 - 1)
    assert (edit.steps, edit.true_cfg_scale) == (4, 1.5)
    assert (edit.output_format, edit.output_compression) == ("webp", 50)
    assert [len(job.references) for job in edit.jobs()] == [2, 2]
    assert edit.fields["image"] == "images"


def test_null_and_empty_text_are_not_given(opened: ExitStack) -> None:
    names = (*STRINGS, *NUMBERS, *BOOLEANS, "mask", "svg", "markup", "frame_count")
    nulls = parse(opened, **{name: None for name in names if name != "prompt"})
    empty = parse(opened, **{name: "" for name in STRINGS if name != "prompt"}, n=0)
    for edit in (nulls, empty):
        assert (edit.variants, edit.size, edit.steps, edit.mask) == (1, None, None, None)
        assert edit.negative_prompt is None


def test_unknown_names_are_ignored(opened: ExitStack) -> None:
    assert parse(opened, sharpness=[1, {"a": None}], image=7, url="https://a.example", **{"prompt[]": 5}).prompt == "p"


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("value", [1, True, ["x"], {"x": "y"}])
def test_a_text_is_a_string(name: str, value: Any, opened: ExitStack) -> None:
    with pytest.raises(InvalidInput, match=f"^{name} must be a string, got '") as caught:
        parse(opened, **{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, [1], {}])
def test_a_number_is_no_list(name: str, value: Any, opened: ExitStack) -> None:
    with pytest.raises(InvalidInput, match=f"^{name} must be a number, got '") as caught:
        parse(opened, **{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("value", [1, 0, []])
def test_a_boolean_is_true_or_false(value: Any, opened: ExitStack) -> None:
    with pytest.raises(InvalidInput, match=r"^stream must be true or false, got '") as caught:
        parse(opened, stream=value)
    assert caught.value.param == "stream"


@pytest.mark.parametrize(
    ("value", "read"),
    [("ink:0.5", "ink:0.5"), ({"ink": 0.5}, '{"ink": 0.5}'), (["ink", "oil:2"], '["ink", "oil:2"]'), (None, None)],
)
def test_adapters_are_a_string_an_object_or_a_list(value: Any, read: str | None, opened: ExitStack) -> None:
    assert parse(opened, lora=value).lora == read


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"lora": 7}, "lora", "lora must be a string, an object or a list, got '7'"),
        ({"lora": True}, "lora", "lora must be a string, an object or a list"),
        ({"lora": "half \ud83d"}, "lora", "lone surrogate"),
        ({"lora": "x" * 70_000}, "lora", "at most 1000"),
        ({"images": []}, "images", "images is required"),
        ({"images": None}, "images", "images is required"),
        ({"images": 7}, "images", "must be a list"),
        ({"images": [7]}, "images", "must be an object with image_url"),
        ({"images": [{}]}, "images", "must be an object with image_url"),
        ({"images": [{"image_url": {"url": "x"}}]}, "images", "must be an object with image_url"),
        ({"images": [IMAGE, {"file_id": "file-1"}]}, "images", "file_id is not supported"),
        ({"images": [{**IMAGE, "file_id": "file-1"}]}, "images", "exclude each other"),
        ({"images": [{"image_url": "data:image/png;base64,%%"}]}, "images", "damaged"),
        ({"images": [{"image_url": "data:image/png;base64,\ud800"}]}, "images", "surrogate"),
        ({"images": [IMAGE] * 4}, "images", "images takes at most 3 references on this server, got 4"),
        ({"mask": [IMAGE]}, "mask", "must be an object with image_url"),
        ({"mask": {"file_id": "file-1"}}, "mask", "file_id is not supported"),
        ({"mask": {"image_url": "ftp://a.example"}}, "mask", "must be a data: URL"),
        ({"prompt": None}, "prompt", "prompt is required"),
        ({"prompt": "half \ud83d"}, "prompt", "lone surrogate"),
        ({"n": 2.5}, "n", "n must be an integer from 1 to 10, got '2.5'"),
        ({"seed": -2}, "seed", "from -1 to"),
        ({"cfg": 1e300}, "cfg", "from 0 to 20"),
        ({"svg": {"model": "x"}}, "svg", "not supported"),
        ({"markup": [IMAGE]}, "markup", "must be an object with image_url"),
        ({"markup": IMAGE, "mask": IMAGE}, "markup", "exclude each other"),
        ({"frame_count": 2}, "frame_count", "not supported"),
        ({"response_format": "url"}, "response_format", "only b64_json"),
    ],
)
def test_bad_fields_are_refused_by_name(fields: dict[str, Any], param: str, says: str, opened: ExitStack) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse(opened, **fields)
    assert caught.value.param == param
    assert caught.value.message.isascii() or "…" in caught.value.message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is not JSON in UTF-8: Expecting value"),
        (b"{", "is not JSON"),
        (b'{"prompt": "p",}', "is not JSON"),
        (b'{"n": NaN}', "is not JSON"),
        (b'{"n": -Infinity}', "is not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"prompt": "\xff"}', "is not JSON in UTF-8"),
        ('{"prompt": "p"}'.encode("utf-16"), "is not JSON in UTF-8"),
        (b'"text"', "must be an object"),
        (b"[]", "must be an object"),
        (b"null", "must be an object"),
    ],
    ids=lambda value: repr(value[:16]) if isinstance(value, bytes) else "",
)
def test_what_is_no_json_object_is_refused(body: bytes, says: str, opened: ExitStack) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parts_of(body, opened)
    assert caught.value.param is None


def test_a_byte_order_mark_is_skipped(opened: ExitStack) -> None:
    assert parts_of(b"\xef\xbb\xbf" + json.dumps({"prompt": "é", "images": [IMAGE]}).encode(), opened)[0][1] == "é"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*STRINGS, *NUMBERS, *BOOLEANS, "images", "mask", "svg"]), JSON, max_size=4))
def test_any_object_is_an_edit_or_a_refusal_that_can_be_sent(opened: ExitStack, fields: dict[str, Any]) -> None:
    try:
        parse(opened, **fields)
    except InvalidInput as error:
        error.message.encode()


def test_a_list_of_very_many_pictures_is_refused_unread(opened: ExitStack) -> None:
    with pytest.raises(InvalidInput, match="images takes at most 64 pictures, got 65"):
        parse(opened, images=[IMAGE] * 65)
