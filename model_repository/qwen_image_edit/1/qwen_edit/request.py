"""Input tensors → EditRequest; every range check of a request that needs no picture decoded."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen_edit.errors import BadRequest, shown
from qwen_edit.families.asked import size_asked_for
from qwen_edit.families.family import Size
from qwen_edit.families.layering import Layering, layering_of
from qwen_edit.families.quality import Quality, quality_of
from qwen_edit.families.wording import plain, worded
from qwen_edit.forward.lora_asked import Asked, adapters_asked_for
from qwen_edit.forward.resumed import left_by
from qwen_edit.forward.skipping import computed, plan_at
from qwen_edit.hints import NO_HINTS, Hints, age_of
from qwen_edit.settings import MAX_SEED, OFF, Limits

Array = npt.NDArray[Any]

MAX_PROMPT_CHARACTERS = 32_000
MAX_TRUE_CFG_SCALE = 20.0
MIN_STEPS = 2  # one step is NaN: the schedule's stretch to its terminal sigma divides by zero
MAX_PREVIEW_SIDE = 1024  # pixels
MAX_REQUEST_ID = 128  # characters that a log line carries
CALL = re.compile(r"\.[0-9]+$")  # at the end of a request's id: which of its edit's calls it is
MAX_CANCELLED_ID = 256  # bytes

# Name → (numpy kind, shape without the batch dimension; -1 is any). Kind "O" is Triton's BYTES.
TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "image": ("O", (-1,)),
    "prompt": ("O", (1,)),
    "negative_prompt": ("O", (1,)),
    "mask": ("O", (1,)),
    "markup": ("O", (1,)),
    "lora": ("O", (1,)),
    "size": ("i", (2,)),
    "num_inference_steps": ("i", (1,)),
    "true_cfg_scale": ("f", (1,)),
    "seed": ("i", (1,)),
    "start_step": ("i", (1,)),
    "stop_step": ("i", (1,)),
    "latents": ("f", (-1, -1)),
    "history": ("f", (-1, -1)),
    "preview": ("i", (1,)),
    "arrival": ("f", (1,)),
    "cancel": ("O", (1,)),
}


@dataclass(frozen=True)
class Defaults:
    """What a request that leaves an input out gets."""

    num_inference_steps: int
    true_cfg_scale: float
    negative_prompt: str
    fixed_steps: int | None = None  # of every edit, where the checkpoint knows no other number
    references: tuple[int, int] = (1, 3)  # least and most of an edit
    transparent_wording: tuple[str, str] | None = None  # None: its pictures are opaque
    cache: str = OFF  # preset of the step cache
    layers: tuple[int, int] | None = None  # least and most of a picture; None: it is edited instead
    captions: bool = False  # of a picture without a prompt


@dataclass(frozen=True)
class EditRequest:
    """One edit of one output image."""

    id: str
    edit_id: str  # of all calls of the edit: segments, and what was sent again
    images: tuple[bytes, ...]  # encoded reference images
    prompt: str
    negative_prompt: str  # empty: no guidance
    mask: bytes | None  # encoded
    size: Size | None  # of the answer; None: chosen from the references; SOURCE: the first one's own
    num_inference_steps: int
    true_cfg_scale: float
    seed: int
    start_step: int
    stop_step: int  # steps run are start_step <= i < stop_step <= num_inference_steps
    latents: npt.NDArray[np.float32] | None  # (tokens, channels) of a stopped run
    preview: int  # longest side in pixels; 0: none
    arrival: float  # seconds of this machine's monotonic clock, as the next two
    dated: bool = False  # whether the caller said when it arrived
    deadline: float = math.inf  # nobody waits any longer
    order: float | None = None  # the place that an earlier engine gave it; None: it has none yet
    caller: str = ""  # empty: like nobody else
    pictures: tuple[bytes, ...] = ()  # SHA-256 of the reference images, where `images` is empty
    siblings: int = 1  # edits that are taken or refused with this one, itself included
    cache: str = OFF  # preset of the step cache
    history: npt.NDArray[np.float32] | None = None  # (tokens, channels): the velocity that `start_step` goes on with
    layering: Layering | None = None  # None: pictures are edited
    markup: bytes | None = None  # encoded: a drawing over the first reference image
    quality: str = ""  # the word that steps and cache stand for, where the caller said it
    lora: Asked = ()
    adapters: str | None = None  # what an earlier answer said of its own; None: not told

    @property
    def guided(self) -> bool:
        return self.true_cfg_scale > 1 and self.negative_prompt != ""

    @property
    def continued(self) -> bool:
        return self.start_step > 0

    def forwards(self, done: int = 0) -> int:
        """Steps after the first `done` that are not spared by the step cache."""
        return computed(done, self.num_inference_steps, self.num_inference_steps, self.cache)


def parse(
    tensors: Mapping[str, Array],
    limits: Limits,
    defaults: Defaults,
    *,
    request_id: str,
    now: float,
    unix_now: float,
    hints: Hints = NO_HINTS,
) -> EditRequest:
    """The request in `tensors`, each with its batch dimension, `now` by the monotonic clock; raises BadRequest naming
    the tensor and the value."""
    values = {name: _unbatched(name, tensor) for name, tensor in tensors.items()}
    own = Quality(defaults.fixed_steps or defaults.num_inference_steps, defaults.cache)
    quality = own if defaults.fixed_steps else quality_of(hints.quality, own, limits.steps)
    asked = _integer(values, "num_inference_steps", quality.steps, MIN_STEPS, limits.steps)
    steps = defaults.fixed_steps or asked
    start, stop = _segment(values, steps)
    if start > 0 and "seed" not in values:
        raise BadRequest("seed", "a continued run (start_step > 0) needs the seed of its first call")
    cache = hints.cache or quality.cache
    latents, history = left_by(values, start, plan=plan_at(start, steps, cache), history_of=hints.history)
    age = age_of(float(values["arrival"][0]), unix_now) if "arrival" in values and hints.age is None else hints.age
    pictures = () if start == 0 or "image" in values else hints.pictures
    if pictures:
        _check_count(len(pictures), defaults.references)
    images = () if pictures else _images(values, defaults.references)
    layering = layering_of(hints.layering, defaults.layers, values)
    prompt = _prompt(values, may_be_empty=defaults.captions)
    width, height = map(int, values.get("size", (0, 0)))
    request_id = request_id or secrets.token_hex(8)
    return EditRequest(
        id=printable(request_id),
        edit_id=CALL.sub("", request_id),
        images=images,
        prompt=worded(prompt, defaults.transparent_wording) if hints.transparent else prompt,
        negative_prompt=_text(values, "negative_prompt", defaults.negative_prompt),
        mask=_picture(values, "mask"),
        markup=_markup(values),
        size=size_asked_for(width, height, limits),
        num_inference_steps=steps,
        true_cfg_scale=_number(values, "true_cfg_scale", defaults.true_cfg_scale, 0.0, MAX_TRUE_CFG_SCALE),
        seed=_integer(values, "seed", secrets.randbelow(2**32), 0, MAX_SEED),
        start_step=start,
        stop_step=stop,
        latents=latents,
        preview=_integer(values, "preview", 0, 0, MAX_PREVIEW_SIDE),
        arrival=now - (age or 0.0),
        dated=age is not None,
        deadline=math.inf if hints.time_left is None else now + hints.time_left,
        order=None if hints.order is None else now + hints.order,
        caller=hints.caller,
        pictures=pictures,
        siblings=hints.siblings,
        cache=cache,
        history=history,
        layering=layering,
        quality=quality.made(steps, cache),
        lora=adapters_asked_for(_text(values, "lora", "")),
        adapters=hints.adapters,
    )


def cancelled(tensors: Mapping[str, Array]) -> str | None:
    """The request id that a call asks to cancel; None for an edit."""
    if "cancel" not in tensors:
        return None
    raw = _bytes("cancel", _unbatched("cancel", tensors["cancel"])[0])
    if not 0 < len(raw) <= MAX_CANCELLED_ID:
        raise BadRequest("cancel", f"{len(raw)} bytes: a request id of 1 to {MAX_CANCELLED_ID} bytes is allowed")
    return raw.decode("utf-8", "replace")


def printable(request_id: str) -> str:
    """A request id as log lines may carry it."""
    return "".join(c if c.isprintable() else "?" for c in request_id[:MAX_REQUEST_ID])


def _unbatched(name: str, tensor: Array) -> Array:
    kind, shape = TENSORS[name]
    if tensor.ndim == 0 or tensor.shape[0] != 1:
        count = tensor.shape[0] if tensor.ndim else 0
        raise BadRequest(name, f"batch size {count}: 1 is allowed")
    value: Array = tensor.reshape(tensor.shape[1:])
    expected = ", ".join("any" if side == -1 else str(side) for side in shape)
    fits = value.ndim == len(shape) and all(w in (-1, s) for s, w in zip(value.shape, shape, strict=True))
    if value.dtype.kind != kind or not fits:
        raise BadRequest(name, f"shape {list(tensor.shape)} of {tensor.dtype}: [1, {expected}] is allowed")
    return value


def _images(values: Mapping[str, Array], references: tuple[int, int]) -> tuple[bytes, ...]:
    if "image" not in values and not references[0]:
        for name in values.keys() & {"mask", "markup"}:
            raise BadRequest(name, f"a {name} without a reference image: send the picture that it is of")
        return ()
    if "image" not in values:
        raise BadRequest("image", "at least one encoded reference image is needed: this checkpoint edits pictures")
    images = tuple(_bytes("image", item) for item in values["image"])
    _check_count(len(images), references)
    for number, image in enumerate(images, 1):
        if not image:
            raise BadRequest("image", f"reference image {number} is empty")
    return images


def _check_count(images: int, references: tuple[int, int]) -> None:
    if not 1 <= images <= references[1]:
        allowed = "1 is" if references[1] == 1 else f"1 to {references[1]} are"
        raise BadRequest("image", f"{images} reference images: {allowed} allowed")


def _prompt(values: Mapping[str, Array], *, may_be_empty: bool) -> str:
    prompt = _text(values, "prompt", "").strip()
    if not prompt and not may_be_empty:
        raise BadRequest("prompt", f"an empty prompt: 1 to {MAX_PROMPT_CHARACTERS} characters are allowed")
    return prompt


def _text(values: Mapping[str, Array], name: str, default: str) -> str:
    if name not in values:
        return default
    raw = _bytes(name, values[name][0])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(name, f"{shown(raw[:40])} is not UTF-8") from None
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise BadRequest(name, f"{len(text)} characters: at most {MAX_PROMPT_CHARACTERS} are allowed")
    return plain(text)


def _markup(values: Mapping[str, Array]) -> bytes | None:
    markup = _picture(values, "markup")
    if markup and _picture(values, "mask"):
        raise BadRequest("markup", "a drawing beside a mask: one of the two is allowed")
    return markup


def _picture(values: Mapping[str, Array], name: str) -> bytes | None:
    return _bytes(name, values[name][0]) or None if name in values else None


def _segment(values: Mapping[str, Array], steps: int) -> tuple[int, int]:
    """(start_step, stop_step), the latter made explicit."""
    start = _integer(values, "start_step", 0, 0, 2**31 - 1)
    stop = _integer(values, "stop_step", -1, -1, 2**31 - 1)
    if start >= steps:
        raise BadRequest("start_step", f"{start}: less than num_inference_steps ({steps}) is allowed")
    if stop == -1 or stop >= steps:
        return start, steps
    if stop <= start:
        raise BadRequest("stop_step", f"{stop}: more than start_step ({start}) is allowed, or -1 for the end")
    return start, stop


def _integer(values: Mapping[str, Array], name: str, default: int, low: int, high: int) -> int:
    if name not in values:
        return default
    value = int(values[name][0])
    if not low <= value <= high:
        raise BadRequest(name, f"{value}: {low} to {high} is allowed")
    return value


def _number(values: Mapping[str, Array], name: str, default: float, low: float, high: float) -> float:
    if name not in values:
        return default
    value = float(values[name][0])
    if not low <= value <= high:
        raise BadRequest(name, f"{value:g}: {low:g} to {high:g} is allowed")
    return value


def _bytes(name: str, item: object) -> bytes:
    """A BYTES element; Triton's gRPC and HTTP front ends hand over bytes, some clients make str of it."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode("utf-8")
    raise BadRequest(name, f"an element of type {type(item).__name__}: bytes are allowed")
