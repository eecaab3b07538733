"""The parts of a body, sorted into texts and files; what its name or its kind forbids is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import UploadFile

from shim.dialect import BATCH, REFERENCES, URLS
from shim.errors import InvalidInput
from shim.reading.fields import FIELDS, MARKUP, MASK, UNSUPPORTED
from shim.reading.uploads import Linked, Part

MASKS = (*MASK.spellings, "mask[]")
MARKUPS = (*MARKUP.spellings, "markup[]")
PICTURES = (BATCH, *REFERENCES, *MASKS, *MARKUPS)
TEXTS = frozenset(name for field in FIELDS if field.obeyed for name in field.spellings)
INDEXED = re.compile(r"(images?|mask|markup)\[[0-9]+\]")

FILE_HINT = "a picture must be a file part, with a filename"
INDEX_HINT = (
    "{name} is not a field: send the picture as a file part named image (in Node: `await toFile(buffer, 'image.png')`, "
    "not a Buffer), and several pictures as parts named image[]"
)
AMBIGUOUS = "images[] is ambiguous: use images for a batch of separate edits, image[] for references of one edit"
REFUSED = {"images[]": AMBIGUOUS, **UNSUPPORTED}


class Form:
    def __init__(self, parts: list[Part]) -> None:
        refuse_indexed(name for name, value in parts if isinstance(value, str))
        _refuse_empty(parts)
        files = [(name, value) for name, value in parts if isinstance(value, UploadFile)]
        texts = [(name, value) for name, value in parts if isinstance(value, str)]
        for name, _ in texts:
            if name in PICTURES:
                raise InvalidInput(f"{name} arrived as text; {FILE_HINT}", param=name.removesuffix("[]"))
        _refuse_unsupported({name for name, _ in parts})
        for name, _ in files:
            if name in TEXTS:
                raise InvalidInput(f"{name} must be a text part, and it has a filename", param=name)
        self.texts = {name.removesuffix("[]"): value for name, value in texts}  # the last of several
        self.batch = [upload for name, upload in files if name == BATCH]
        self.references = [upload for name, upload in files if name in REFERENCES + URLS]
        self.masks = [upload for name, upload in files if name in MASKS]
        self.markups = [upload for name, upload in files if name in MARKUPS]


def plain_name(name: str) -> str:
    """Of a file: PHP numbers the members of a list, `image[0]`, `image[1]`."""
    return INDEXED.sub(r"\1[]", name).replace("mask[]", "mask")


def _refuse_empty(parts: list[Part]) -> None:
    """An input that was left out has no filename; a file that has one and no bytes is a mistake of whoever made it."""
    for part, value in parts:
        if isinstance(value, UploadFile) and value.size == 0 and not isinstance(value, Linked):
            name = part.removesuffix("[]")
            raise InvalidInput(f"{name} is empty: the file has no bytes", param=name)


def refuse_indexed(names: Iterable[str]) -> None:
    for name in names:
        if match := INDEXED.fullmatch(name):
            raise InvalidInput(INDEX_HINT.format(name=name), param=match[1])


def _refuse_unsupported(names: set[str]) -> None:
    """What would change the result if it were obeyed; harmless extras are ignored instead."""
    for name in sorted(names):
        key = name.split("[")[0] if name.startswith("svg[") else name
        if key in REFUSED:
            raise InvalidInput(REFUSED[key], param=key.removesuffix("[]"))
