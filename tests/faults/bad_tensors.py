"""Strategies for tensors that are no edit: wrong types, shapes and values, beside those of a good one."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from tests.faults.bad_pictures import pictures, sound
from tests.faults.calls import Call, Inferred, Rpc, Tensor, texts

TYPES = {
    "size": ("INT32", 2), "num_inference_steps": ("INT32", 1), "true_cfg_scale": ("FP32", 1), "seed": ("INT64", 1),
    "start_step": ("INT32", 1), "stop_step": ("INT32", 1), "preview": ("INT32", 1), "arrival": ("FP64", 1),
}  # fmt: skip
CODES = {"INT32": "i", "INT64": "q", "FP32": "f", "FP64": "d", "UINT8": "B", "BOOL": "?", "INT16": "h"}
INTEGERS = (0, 1, -1, 2, 3, 5, 63, 64, 100, 1024, 2**31 - 1, -(2**31))
LONG = (*INTEGERS, 2**63 - 1, -(2**63), 2**32)
FLOATS = (0.0, -0.0, 1.0, -1.0, 20.5, 1e30, -1e38, float("nan"), float("inf"), -float("inf"), 1e-45)
STRANGE_TEXTS = (
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b" \n ",
        b"x" * 100_000,
        "é".encode() * 32_001,
        b"\x1b[0m",
        b"x" * 9000,
    ),
    *(
        b"<|im_end|>" * 300,
        b"<|image_pad|>" * 2000,
        "🦆".encode() * 2000,
        b"{}{0}",
        b"%s",
        "\u202e".encode(),
        b"qz " * 9000,
    ),
)
IDS = st.text(st.characters(codec="utf-8", exclude_characters="/."), max_size=30)  # they are echoed; see calls.LEAKS
CELL, CHANNELS = 16, 64  # of 64 x 64 pixels: their latents are (16, 64)
PARAMETERS = (
    *("layers", "resolution", "n", "most_layers", "output_format", "opaque", "usual_size", "siblings", "caller"),
    *("age", "time_left", "order", "pictures", "background", "cache", "history", "about", "x", "x" * 99),
)  # an empty name, and one that begins with NUL, is answered with 500 by Triton 24.10 itself
OTHER_TYPES = ("BYTES", "INT32", "INT64", "FP32", "FP16", "UINT8", "BOOL", "BF16", "FOO", "")


Good = Callable[[bytes], dict[str, Tensor]]  # the tensors of an edit of this picture


def good(picture: bytes) -> dict[str, Tensor]:
    return {
        "image": ("image", "BYTES", (1, 1), texts(picture)),
        "prompt": ("prompt", "BYTES", (1, 1), texts(b"x")),
        "size": ("size", "INT32", (1, 2), struct.pack("<2i", 64, 64)),
        "num_inference_steps": ("num_inference_steps", "INT32", (1, 1), struct.pack("<i", 2)),
    }


def good_layers(picture: bytes) -> dict[str, Tensor]:
    """Of a model that takes pictures apart."""
    return {name: tensor for name, tensor in good(picture).items() if name != "size"}


@st.composite
def numbers(draw: st.DrawFn) -> Tensor:
    """Of the right type and shape; the values are what is wrong, perhaps."""
    name = draw(st.sampled_from(sorted(TYPES)))
    datatype, count = TYPES[name]
    allowed = FLOATS if datatype.startswith("FP") else LONG if datatype == "INT64" else INTEGERS
    given = [draw(st.sampled_from(allowed)) for _ in range(count)]
    return name, datatype, (1, count), struct.pack(f"<{count}{CODES[datatype]}", *given)


@st.composite
def strings(draw: st.DrawFn) -> Tensor:
    name = draw(st.sampled_from(("prompt", "negative_prompt", "cancel")))
    return name, "BYTES", (1, 1), texts(draw(st.one_of(st.sampled_from(STRANGE_TEXTS), st.binary(max_size=50))))


@st.composite
def files(draw: st.DrawFn) -> Tensor:
    name, count = draw(st.sampled_from((("image", 1), ("image", 2), ("image", 0), ("image", 9), ("mask", 1))))
    return name, "BYTES", (1, count), texts(*(draw(pictures()) for _ in range(count)))


@st.composite
def latents(draw: st.DrawFn) -> Tensor:
    rows = draw(st.sampled_from((CELL, CELL, CELL, 0, 1, 15, 17, 4096)))
    columns = draw(st.sampled_from((CHANNELS, CHANNELS, 0, 1, 63)))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    drawn = generator.standard_normal((1, rows, columns)).astype(np.float32)
    drawn *= np.float32(draw(st.sampled_from((1.0, 1e3, 1e5, 1e36, 0.0))))
    if drawn.size and draw(st.booleans()):
        drawn.flat[0] = draw(st.sampled_from(FLOATS))
    return "latents", "FP32", drawn.shape, drawn.tobytes()


@st.composite
def wrong(draw: st.DrawFn) -> Tensor:
    """Of a type, a shape or a length that the model does not declare.

    Sides are small and not negative: of `latents`, Triton 24.10 multiplies them without looking, and its worker dies
    of [1, 2**32, 2**32] with no data and of [1, -16, -64] with 4096 bytes.
    """
    name = draw(st.sampled_from((*TYPES, "image", "prompt", "mask", "latents", "cancel", "nobody", "", "\0", "x" * 99)))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    data = draw(st.one_of(st.binary(max_size=40), st.just(texts(b"x")), st.just(struct.pack("<I", 2**32 - 1))))
    return name, draw(st.sampled_from(OTHER_TYPES)), shape, data


@st.composite
def edits(draw: st.DrawFn, good: Good = good) -> tuple[Tensor, ...]:
    tensors = good(draw(st.sampled_from(sound())))
    for tensor in draw(
        st.lists(st.one_of(numbers(), numbers(), strings(), files(), latents(), wrong()), min_size=1, max_size=4)
    ):
        tensors[tensor[0]] = tensor
    if draw(st.integers(0, 9)) == 0:
        tensors.pop(draw(st.sampled_from(sorted(tensors))))
    listed = list(tensors.values())
    if draw(st.integers(0, 19)) == 0:
        listed.append(draw(st.sampled_from(listed)) if listed else ("", "", (), b""))
    return tuple(listed)


def parameters() -> st.SearchStrategy[dict[str, int | bool | str]]:
    strange: tuple[int | bool | str, ...] = (*LONG, True, False, "2", "640", "", "auto", "jpeg", "NaN", "1e400", "\0")
    values = st.one_of(st.sampled_from(strange), st.sampled_from(("x" * 100_000, "a" * 64)), st.text(max_size=20))
    return st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=3)


def bad_tensors_over_http(good: Good = good) -> st.SearchStrategy[Call]:
    return st.builds(
        lambda tensors, name, given: Inferred("tensors, http", tensors, name, tuple(given.items())),
        edits(good), IDS, parameters(),
    )  # fmt: skip


def bad_tensors_over_grpc() -> st.SearchStrategy[Call]:
    return st.builds(lambda tensors, name: Rpc("tensors, grpc", tensors, name), edits(), IDS)
