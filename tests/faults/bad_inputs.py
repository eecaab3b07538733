"""Strategies for bodies that are no edit: forms and JSON for the shim, JSON for Triton."""

from __future__ import annotations

import functools
import json
from base64 import b64encode
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from tests.faults.bad_pictures import pictures, sound
from tests.faults.calls import Call, Malformed, Posted

Fields = tuple[tuple[str, str], ...]

BOUNDARY = "----b0undary"
# Small and quick, where a bad input happens to be a good one.
EASY = (("prompt", "x"), ("size", "64x64"), ("steps", "2"))
EASY_LAYERS = (("prompt", "x"), ("layers", "2"), ("steps", "2"))  # of a model that takes pictures apart
NAMES = (
    *("prompt", "negative_prompt", "n", "size", "num_inference_steps", "steps", "sampling_steps", "true_cfg_scale"),
    *("cfg_scale", "cfg", "seed", "output_format", "output_compression", "response_format", "stream"),
    *("partial_images", "guidance_scale", "output_type", "max_sequence_length", "background", "url", "url[]", "image"),
    *("image[]", "images", "images[]", "mask", "image[0]", "svg[x]", "markup", "model", "user", "", "\0", "x" * 3000),
    *("layers", "resolution"),
)
PICTURES = ("image", "image[]", "images", "mask", "mask[]", "images[]", "image[1]", "prompt", "x")
STRANGE = (
    *("NaN", "nan", "Infinity", "-inf", "1e400", "-1e400", "1e-400", "1_0", "٣", "0x10", "+-1", "1" * 5000, "0" * 9000),
    *("-1", "9223372036854775808", "2147483648", "1.5", ".", "1e3", "64x64x64", "99999999x1", "0x0", "-64x64", "autox"),
    *("\0", "\x1b[31m\x07", "\r\n\r\n", "\u202e\u2066", "\ufeff", "\U000f0000", "a\u0301" * 500, "🦆" * 5000),
    *("a" * 100_000, "é" * 33_000, " " * 100_000, "<|im_start|>" * 500, "<|image_pad|>" * 3000, "{0.__class__}{x!r}"),
    *("%s%n%x", "../../etc/passwd", "'; DROP TABLE edits; --", "<script>alert(1)</script>", "${jndi:ldap://x}"),
    *(
        "true",
        "null",
        "None",
        "[]",
        "{}",
        "data:image/png;base64,",
        "data:,x",
        "http://127.0.0.1/",
        "file:///etc/passwd",
    ),
    *("http://[::1", "http://a@b:99999999/", "data:image/png;base64,!!!!", "gopher://x", "https://169.254.169.254/"),
)


def values() -> st.SearchStrategy[str]:
    numbers = st.one_of(st.integers(), st.floats()).map(str)
    return st.one_of(st.sampled_from(STRANGE), st.sampled_from(STRANGE), numbers, st.text(max_size=60))


def part(name: str, value: bytes, filename: str | None = None, more: str = "") -> bytes:
    shown = "" if filename is None else f'; filename="{filename}"'
    head = f'Content-Disposition: form-data; name="{name}"{shown}\r\n{more}\r\n'
    return head.encode("utf-8", "replace") + value


def joined(parts: list[bytes], boundary: str = BOUNDARY) -> bytes:
    line = f"--{boundary}".encode()
    return b"".join(line + b"\r\n" + each + b"\r\n" for each in parts) + line + b"--\r\n"


def form(kind: str, parts: list[bytes], headers: tuple[tuple[str, str], ...] = ()) -> Posted:
    return Posted(kind, joined(parts), f"multipart/form-data; boundary={BOUNDARY}", headers)


def easy_parts(easy: Fields = EASY) -> list[bytes]:
    return [part(name, value.encode()) for name, value in easy]


HEADERS = st.sampled_from(((), (("api-key", "k"),), (("x-stainless-lang", "js"),), (("authorization", "Bearer \xff"),)))


@st.composite
def bad_pictures_in_a_form(draw: st.DrawFn, easy: Fields = EASY) -> Call:
    names = st.sampled_from(("image", "images", "mask", "image[]"))
    uploads = draw(st.lists(st.tuples(names, pictures()), min_size=1, max_size=3))
    parts = [part(name, data, "a.png") for name, data in uploads]
    return form("pictures", [*easy_parts(easy), *parts], draw(HEADERS))


@st.composite
def bad_fields(draw: st.DrawFn, easy: Fields = EASY) -> Call:
    given = draw(st.lists(st.tuples(st.sampled_from(NAMES), values()), min_size=1, max_size=6))
    texts = [part(name, value.encode("utf-8", "replace")) for name, value in given]
    uploads = draw(st.lists(st.sampled_from(PICTURES), max_size=3))
    files = [part(name, draw(st.sampled_from(sound())), draw(st.sampled_from(("a", "", "\0"))), "") for name in uploads]
    return form("fields", draw(st.permutations([*easy_parts(easy), *texts, *files])), draw(HEADERS))


@functools.cache
def whole_form() -> bytes:
    return joined([*easy_parts(), part("image", sound()[0], "a.jpg")])


CONTENT_TYPES = (
    *("multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""', "", "text/plain"),
    *("multipart/form-data; boundary=" + "b" * 300, "multipart/form-data; boundary*=utf-8''x", "multipart/mixed; a=b"),
    *(
        "multipart/form-data; boundary=\xff",
        "multipart/form-data; charset=utf-7; boundary=" + BOUNDARY,
        "application/json",
    ),
    *(
        "multipart/form-data; charset=rot13; boundary=" + BOUNDARY,
        ";;;=;",
        "multipart/form-data; boundary" + "=x;" * 500,
    ),
    *("application/json; charset=utf-16", "application/x-www-form-urlencoded", "multipart/form-data; boundary*0=a"),
)
SKELETONS = (
    [part("a", b"")] * 400,
    [part("image", b"x", "a")] * 100,
    [part("image", b"", "")] * 70,
    [part("image", b"x", "a", "X: y\r\n" * 100)],
    [part("image", b"x", "a", "X: " + "y" * 10_000 + "\r\n")],
    [part("image", b"x", "a", "X" * 10_000 + ": y\r\n")],
    [b"\r\nx"] * 3,
    [b"Content-Disposition: form-data\r\n\r\nx"],
    [b"Content-Disposition: form-data; name\r\n\r\nx"],
    [b"Content-Disposition: form-data; name=a; filename*=utf-8''b\r\n\r\nx"],
    [b"no colon\r\n\r\nx"],
    [part("image", b"x" * 2**20, "a")] * 9,
    [part("user", b"x" * 2**20)] * 6,
    [part("url", b"data:image/png;base64," + b"A" * 2**22)],
    [part("x", joined([part("image", b"x", "a")]), "a", f"Content-Type: multipart/mixed; boundary={BOUNDARY}\r\n")],
)


@st.composite
def bad_forms(draw: st.DrawFn) -> Call:
    way = draw(st.integers(0, 3))
    if way == 0:
        return Posted("forms", whole_form(), draw(st.sampled_from(CONTENT_TYPES)), draw(HEADERS))
    if way == 1:
        return form(
            "forms", draw(st.sampled_from(SKELETONS)) + draw(st.sampled_from(([], easy_parts()))), draw(HEADERS)
        )
    body = bytearray(whole_form())
    for _ in range(draw(st.integers(1, 5))):
        at, byte = draw(st.integers(0, 600)), draw(st.sampled_from(b'\r\n-:;"=\0\xff a'))
        body[at : at + draw(st.integers(0, 3))] = bytes([byte])
    end = draw(st.one_of(st.none(), st.integers(0, len(body))))
    return Posted("forms", bytes(body[:end]), f"multipart/form-data; boundary={BOUNDARY}", draw(HEADERS))


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), values(), st.just("\ud800"), st.just(10**400)
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(values(), inner, max_size=3)
    )


@st.composite
def bad_json(draw: st.DrawFn) -> Call:
    encoded = st.one_of(pictures().map(lambda data: b64encode(data).decode()), st.text(max_size=30).map(quote))
    image = {"image_url": f"data:image/jpeg;base64,{draw(encoded)}"}
    easy = {"prompt": "x", "size": "64x64", "steps": 2, "images": draw(st.one_of(json_values(), st.just([image])))}
    more = draw(st.dictionaries(st.sampled_from((*NAMES, "images")), json_values(), max_size=4))
    body = json.dumps({**easy, **more}).encode()
    if draw(st.booleans()):
        at, end = draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.sampled_from(JSON_BITS)) + body[at : max(at, end)]
    return Posted("json", body, "application/json", draw(HEADERS))


JSON_BITS = (
    *(b"[" * 100_000, b'{"a":' * 20_000, b"NaN", b"-Infinity", b"1e400", b"9" * 5000, b'"\\ud800"', b"\xff\xfe", b"\0"),
    *(b'"' + b"\\" * 70_001 + b'"', b'"a"' * 300_000, b"\xef\xbb\xbf", b"//", b"\x1e", b'"images":[],', b"{}" * 1000),
)


def triton_json() -> st.SearchStrategy[Any]:
    """Nested a little at most: 24.10's parser recurses, and 200 000 brackets end the server."""
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=20)
    )
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner))


@st.composite
def bad_infer_json(draw: st.DrawFn) -> Call:
    """Shapes are never negative or huge beside `latents`, whose sizes 24.10 multiplies without looking."""
    known = {"name": st.sampled_from(("image", "prompt", "size", "seed", "nobody")), "datatype": st.just("BYTES")}
    shapes = st.lists(st.integers(0, 5), max_size=4)
    inputs = st.fixed_dictionaries(
        {},
        optional={
            **known,
            "shape": st.one_of(shapes, triton_json()),
            "data": triton_json(),
            "parameters": st.dictionaries(st.sampled_from(("binary_data_size", "classification", "x")), triton_json()),
        },
    )
    body = {
        "id": draw(triton_json()),
        "inputs": draw(st.one_of(st.lists(st.one_of(inputs, triton_json()), max_size=4), triton_json())),
        **draw(st.dictionaries(st.sampled_from(("outputs", "parameters", "x")), triton_json())),
    }
    header = json.dumps(body).encode()
    header = header[: draw(st.one_of(st.none(), st.integers(0, len(header))))]
    length = draw(st.one_of(st.none(), st.sampled_from(("0", "-1", "5", "99999999999", "x", ""))))
    return Malformed("triton json", header, draw(st.binary(max_size=50)), length)
