"""A JSON body, OpenAI's `EditImageBodyJsonParam` with our own fields → the parts that a form would have had."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, BinaryIO, Never

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.datastructures import UploadFile

from shim.errors import InvalidInput
from shim.limits import MAX_FILES, MAX_TEXT_PART_BYTES, MAX_URL_CHARS
from shim.reading.fields import UNSUPPORTED, json_kinds
from shim.reading.kinds import refuse
from shim.reading.long_strings import LongStrings
from shim.reading.uploads import Part, linked, spooled

IMAGE = "image"  # the same, in the words of the form
IMAGES = "images"  # references of one edit, unlike the form's files of this name
KINDS = json_kinds()
MAX_ESCAPED_BYTES = 2 * MAX_URL_CHARS  # some encoders write \/ for each slash of base64
SOURCE = 'an object with image_url, as in {"image_url": "data:image/png;base64,…"}'


@asynccontextmanager
async def open_json(
    chunks: AsyncIterable[bytes], threads: CapacityLimiter, *, needs_pictures: bool = True
) -> AsyncIterator[list[Part]]:
    """The body as parts; their files are closed at the end."""
    with ExitStack() as opened:
        body = UploadFile(opened.enter_context(spooled()))
        async for chunk in chunks:
            await body.write(chunk)
        # A body that is parsed is in memory as a whole.
        yield await anyio.to_thread.run_sync(read_json, body.file, opened, needs_pictures, limiter=threads)


def read_json(body: BinaryIO, opened: ExitStack, needs_pictures: bool = True) -> list[Part]:
    """Blocks; `opened` closes the parts' files."""
    body.seek(0)
    strings = LongStrings(body.read())
    given = {name: value for name, value in _parse(strings.rest).items() if value not in (None, "")}
    parts: list[Part] = list(_texts(given, strings))
    images = given.get(IMAGES, given.get(IMAGE, []))
    if isinstance(images, str | dict):
        images = [images]
    if not isinstance(images, list):
        _refuse(IMAGES, images, f"a list; each element is {SOURCE}")
    if not images and needs_pictures:
        raise InvalidInput(f"{IMAGES} is required: a list; each element is {SOURCE}", param=IMAGES)
    if len(images) > MAX_FILES:
        raise InvalidInput(f"{IMAGES} takes at most {MAX_FILES} pictures, got {len(images)}", param=IMAGES)
    sources = [(IMAGES, "image[]", source) for source in images]
    sources += [(name, name, given[name]) for name in ("mask", "markup") if name in given]
    for field, name, source in sources:
        upload = linked(field, _image_url(field, source, strings))
        opened.callback(upload.file.close)
        parts.append((name, upload))
    return parts


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise InvalidInput(f"The body is not JSON in UTF-8: {reason}") from error
    if not isinstance(parsed, dict):
        raise InvalidInput("The JSON body must be an object")
    return parsed


def _refuse_constant(name: str) -> Never:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def _texts(given: dict[str, Any], strings: LongStrings) -> Iterator[Part]:
    for name, value in given.items():
        kind = KINDS.get(name)
        if kind == "string":
            if not isinstance(value, str):
                _refuse(name, value, "a string")
            yield name, _well_formed(name, strings.original(name, value, MAX_TEXT_PART_BYTES))
        elif kind == "number":
            if not isinstance(value, int | float | str) or isinstance(value, bool):
                _refuse(name, value, "a number")
            yield (
                name,
                _well_formed(name, strings.original(name, value, MAX_TEXT_PART_BYTES))
                if isinstance(value, str)
                else str(value),
            )
        elif kind == "boolean":
            if not isinstance(value, bool | str):
                _refuse(name, value, "true or false")
            yield name, value if isinstance(value, str) else json.dumps(value)
        elif kind == "structure":
            if not isinstance(value, str | dict | list):
                _refuse(name, value, "a string, an object or a list")
            text = strings.original(name, value, MAX_TEXT_PART_BYTES) if isinstance(value, str) else json.dumps(value)
            yield name, _well_formed(name, text)
        elif name in UNSUPPORTED:
            yield name, json.dumps(value)  # whatever it holds, to be refused as in a form


def _image_url(field: str, source: Any, strings: LongStrings) -> str:
    if isinstance(source, str):
        source = {"image_url": source}
    if not isinstance(source, dict):
        _refuse(field, source, SOURCE)
    given = {name for name in ("image_url", "file_id") if source.get(name) is not None}
    if given == {"image_url", "file_id"}:
        raise InvalidInput(f"{field}: image_url and file_id exclude each other", param=field)
    if given == {"file_id"}:
        raise InvalidInput(f"{field}: file_id is not supported, as no files are kept here; send {SOURCE}", param=field)
    url = source.get("image_url")
    if not isinstance(url, str):
        _refuse(field, source, SOURCE)
    return _well_formed(field, strings.original(field, url, MAX_ESCAPED_BYTES).strip())


def _well_formed(name: str, value: str) -> str:
    """JSON can escape halves of surrogate pairs, which no encoder takes."""
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} has a lone surrogate, which is no character", param=name) from error
    return value


def _refuse(name: str, value: Any, allowed: str) -> Never:
    refuse(name, json.dumps(value), allowed)
