"""One form → one checked edit → its jobs, each one edit of one output image."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import UploadFile

from shim.errors import Dialect, InvalidInput
from shim.limits import MAX_BATCH_IMAGES, MAX_PROMPT_CHARS, MAX_RANDOM_SEED, MAX_SEED, MAX_VARIANTS, MIN_SIDE
from shim.reading.fields import Fields, refuse
from shim.reading.multipart import BATCH, MASKS, REFERENCES, URLS, Form
from shim.reading.pictures import Picture
from shim.reading.uploads import Linked
from shim.settings import Settings

STEPS = ("num_inference_steps", "steps", "sampling_steps")
TRUE_CFG_SCALE = ("true_cfg_scale", "cfg_scale", "cfg")
MAX_CFG_SCALE = 20.0
CLASSIC_SIDE = 1024  # pixels
MAX_PARTIAL_IMAGES = 3
OUTPUT_FORMATS = ("png", "jpeg", "webp")
TEXT_FIELDS = ("prompt", "negative_prompt", "n", "size", "seed", *STEPS, *TRUE_CFG_SCALE, "output_format", "stream")
SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})", re.IGNORECASE)

UNSUPPORTED = {
    "images[]": "images[] is ambiguous: use images for a batch of separate edits, image[] for references of one edit",
    "markup": "markup is not supported; say in the prompt what to change, or send a mask",
    "svg": "SVG output is not supported",
    "frame_count": "animations are not supported",
}


@dataclass(frozen=True)
class EditRequest:
    dialect: Dialect
    prompt: str
    negative_prompt: str | None
    images: tuple[Picture, ...]
    mask: Picture | None
    variants: int
    size: tuple[int, int] | None
    steps: int | None
    true_cfg_scale: float | None
    seed: int
    output_format: str
    output_compression: int
    stream: bool
    partial_images: int  # of each output, in a stream
    fields: Mapping[str, str]  # the model's tensor → the client's name for it

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return (*self.images, self.mask) if self.mask else self.images

    def jobs(self) -> list[Job]:
        """[image 1 variant 1, image 1 variant 2, image 2 variant 1, …]; openai's images are all references of one."""
        edits = [(image,) for image in self.images] if self.dialect == "classic" else [self.images]
        seeds = [(self.seed + variant) % (MAX_SEED + 1) for variant in range(self.variants)]
        pairs = [(references, seed) for references in edits for seed in seeds]
        return [Job(self, index, references, seed) for index, (references, seed) in enumerate(pairs)]


@dataclass(frozen=True)
class Job:
    edit: EditRequest
    index: int
    references: tuple[Picture, ...]
    seed: int


def parse_edit(form: Form, settings: Settings) -> EditRequest:
    _refuse_unsupported(form)
    _check_ignored(form.fields)
    fields = form.fields
    images = _images(form, settings)
    return EditRequest(
        dialect=form.dialect,
        prompt=_prompt(fields),
        negative_prompt=_long_text("negative_prompt", fields.raw("negative_prompt")),
        images=images,
        mask=_mask(form, len(images)),
        variants=_variants(form, len(images), settings),
        size=_size(form, settings),
        steps=fields.integer(*STEPS, low=2, high=settings.max_steps),
        true_cfg_scale=fields.number(*TRUE_CFG_SCALE, low=0, high=MAX_CFG_SCALE),
        seed=_seed(fields),
        output_format=fields.choice("output_format", OUTPUT_FORMATS) or "png",
        output_compression=_or(fields.integer("output_compression", low=0, high=100), 100),
        stream=fields.boolean("stream") or False,
        partial_images=fields.integer("partial_images", low=0, high=MAX_PARTIAL_IMAGES) or 0,
        fields={
            "image": images[0].name,
            "num_inference_steps": fields.spelling(*STEPS),
            "true_cfg_scale": fields.spelling(*TRUE_CFG_SCALE),
            **{name: name for name in ("prompt", "negative_prompt", "mask", "size", "seed")},
        },
    )


def _refuse_unsupported(form: Form) -> None:
    """What would change the result if it were obeyed; harmless extras are ignored instead."""
    for name in sorted(form.names):
        key = name.split("[")[0] if name.startswith("svg[") else name
        if key in UNSUPPORTED:
            raise InvalidInput(UNSUPPORTED[key], param=key.removesuffix("[]"))
    for name, _ in form.files:
        if name in TEXT_FIELDS:
            raise InvalidInput(f"{name} must be a text part, and it has a filename", param=name)
    if form.fields.text("response_format") == "url":
        raise InvalidInput("response_format=url is not supported: only b64_json is answered", param="response_format")
    if form.fields.text("background") == "transparent":
        raise InvalidInput("background=transparent is not supported: outputs are opaque", param="background")


def _check_ignored(fields: Fields) -> None:
    fields.choice("response_format", ("b64_json",))
    fields.choice("background", ("auto", "opaque"))
    fields.choice("output_type", ("pil", "pt"))
    fields.integer("max_sequence_length", low=1, high=1024)
    fields.number("guidance_scale", low=0, high=MAX_CFG_SCALE)


def _images(form: Form, settings: Settings) -> tuple[Picture, ...]:
    batch = _pictures(BATCH, form.uploads(BATCH))
    references = _pictures("image", form.uploads(*REFERENCES, *URLS))
    if batch and references:
        raise InvalidInput("images (a batch) and image (references of one edit) exclude each other", param=BATCH)
    if len(batch) > MAX_BATCH_IMAGES:
        raise InvalidInput(f"images takes at most {MAX_BATCH_IMAGES} files, got {len(batch)}", param=BATCH)
    if len(references) > settings.max_references:
        name = references[0].name
        problem = f"{name} takes at most {settings.max_references} references on this server, got {len(references)}"
        raise InvalidInput(problem, param=name)
    if not batch and not references:
        raise InvalidInput("Image is required", param=BATCH if form.dialect == "classic" else "image")
    return batch or references


def _mask(form: Form, images: int) -> Picture | None:
    masks = _pictures("mask", form.uploads(*MASKS))
    if len(masks) > 1:
        raise InvalidInput(f"mask takes one file, got {len(masks)}", param="mask")
    if masks and form.dialect == "classic" and images > 1:
        raise InvalidInput(f"mask needs exactly one file named images, got {images}", param="mask")
    return masks[0] if masks else None


def _pictures(name: str, uploads: list[UploadFile]) -> tuple[Picture, ...]:
    names = [upload.field if isinstance(upload, Linked) else name for upload in uploads]
    labels = names if len(names) == 1 else [f"{name} (file {index + 1})" for index, name in enumerate(names)]
    return tuple(map(Picture, names, labels, uploads))


def _prompt(fields: Fields) -> str:
    prompt = _long_text("prompt", fields.text("prompt"))
    if prompt is None:
        raise InvalidInput("prompt is required", param="prompt")
    return prompt


def _long_text(name: str, value: str | None) -> str | None:
    """Browsers and Node rewrite line ends in forms."""
    if value is None:
        return None
    if len(text := value.replace("\r\n", "\n")) > MAX_PROMPT_CHARS:
        raise InvalidInput(f"{name} must be at most {MAX_PROMPT_CHARS} characters, got {len(text)}", param=name)
    return text


def _variants(form: Form, images: int, settings: Settings) -> int:
    """n counts outputs per image in the classic dialect, outputs in all in OpenAI's, where 0 means not given."""
    not_given = form.dialect == "openai" and form.fields.text("n") == "0"
    variants = 1 if not_given else form.fields.integer("n", low=1, high=MAX_VARIANTS) or 1
    outputs = variants * (images if form.dialect == "classic" else 1)
    if outputs > settings.max_outputs_per_request:
        problem = f"{outputs} outputs were asked for, at most {settings.max_outputs_per_request} are allowed"
        raise InvalidInput(f"n={variants}: {problem}", param="n")
    return variants


def _size(form: Form, settings: Settings) -> tuple[int, int] | None:
    value = form.fields.text("size")
    if value is None:
        return classic_size(settings) if form.dialect == "classic" else None
    if value.lower() == "auto":
        return None
    match = SIZE.fullmatch(value)
    if not match:
        refuse("size", value, "WIDTHxHEIGHT or auto")
    width, height = int(match[1]), int(match[2])
    if not all(MIN_SIDE <= side <= settings.max_side for side in (width, height)):
        refuse("size", value, f"WIDTHxHEIGHT with sides from {MIN_SIDE} to {settings.max_side}, or auto")
    if width * height > settings.max_pixels:
        refuse("size", value, f"at most {settings.max_pixels} pixels")
    return width, height


def classic_size(settings: Settings) -> tuple[int, int]:
    """The largest square up to the classic one that this server allows."""
    side = min(CLASSIC_SIDE, settings.max_side, math.isqrt(settings.max_pixels))
    return side, side


def _seed(fields: Fields) -> int:
    return _or(fields.integer("seed", low=0, high=MAX_SEED), secrets.randbelow(MAX_RANDOM_SEED + 1))


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
