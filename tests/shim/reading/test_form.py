from __future__ import annotations

import io

import pytest
from starlette.datastructures import UploadFile

from shim.errors import InvalidInput
from shim.reading.form import Form
from shim.reading.uploads import Part


def upload(size: int = 3) -> UploadFile:
    return UploadFile(io.BytesIO(b"x" * size), size=size, filename="a.png")


def test_the_last_of_duplicated_fields_wins() -> None:
    assert Form([("n", "1"), ("n", "2")]).texts == {"n": "2"}


def test_brackets_of_extension_names_are_dropped() -> None:
    form = Form([("seed[]", "7"), ("obj[a]", "x")])
    assert form.texts["seed"] == "7"
    assert form.texts["obj[a]"] == "x"


def test_uploads_keep_their_order_over_both_spellings() -> None:
    first, second, third = upload(), upload(), upload()
    form = Form([("image[]", first), ("image", second), ("mask", upload()), ("image[]", third)])
    assert form.references == [first, second, third]


@pytest.mark.parametrize(
    ("name", "param"), [("image", "image"), ("image[]", "image"), ("images", "images"), ("mask", "mask")]
)
def test_a_picture_without_a_filename_is_refused_with_a_hint(name: str, param: str) -> None:
    with pytest.raises(InvalidInput, match="must be a file part, with a filename") as caught:
        Form([(name, "\x89PNG\r\n")])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("image[0]", "137"), ("image[1]", "80")], "image"),
        ([("mask[12]", "1")], "mask"),
    ],
    ids=["a Buffer given to openai-node", "mask"],
)
def test_indexed_pictures_are_refused_with_a_hint(parts: list[Part], param: str) -> None:
    with pytest.raises(InvalidInput, match="toFile") as caught:
        Form(parts)
    assert caught.value.param == param
