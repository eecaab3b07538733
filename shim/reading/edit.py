"""A request → one checked edit → its jobs, each one edit of one output image."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.datastructures import Headers, UploadFile
from starlette.requests import Request

from shim.dialect import BATCH, Dialect, Purpose, hear_parts, is_json
from shim.errors import InvalidInput, UnsupportedMediaType
from shim.guards.body_limit import content_length
from shim.limits import MAX_RANDOM_SEED, MAX_SEED
from shim.reading import fields
from shim.reading.fetch import fetch_all
from shim.reading.fields import Given
from shim.reading.form import Form
from shim.reading.json_body import open_json
from shim.reading.kinds import SHOWN_CHARS, in_force
from shim.reading.multipart import open_multipart
from shim.reading.pictures import Picture
from shim.reading.spool import Spool, refused_when_full
from shim.reading.uploads import Linked, Part, link_addresses
from shim.settings import Settings

CLASSIC_SIDE = 1024  # pixels
# Of the model, and its parameters, that are named as the client names them.
TENSORS = (
    *("prompt", "negative_prompt", "mask", "markup", "lora", "size", "seed", "background", "cache", "quality"),
    *("layers", "resolution", "n", "output_format"),
)


@dataclass(frozen=True)
class Edit:
    """Of pictures, or the making of one from a text alone."""

    purpose: Purpose
    dialect: Dialect
    prompt: str
    negative_prompt: str | None
    images: tuple[Picture, ...]
    mask: Picture | None
    markup: Picture | None  # a drawing over the first image
    variants: int
    size: tuple[int, int] | None
    steps: int | None
    true_cfg_scale: float | None
    seed: int
    output_format: str
    output_compression: int
    background: str  # auto, opaque or transparent
    cache: str  # preset of the step cache; auto: the quality's, or the model's own
    lora: str | None  # adapters, as the model reads them
    quality: str  # by which the model chooses steps and cache that are not named; auto: its own
    layers: int | None  # that the picture is taken apart into; None: the model's default, if it makes any
    resolution: int | None  # likewise, at which
    most_layers: int  # of each job, so that the request has no more outputs than it may
    usual_size: bool  # whether `size` is what a caller gets that names none
    stream: bool
    partial_images: int  # of each output, in a stream
    fields: Mapping[str, str]  # the model's tensor → the client's name for it

    @property
    def shows_alpha(self) -> bool:
        """Whether an answer may be transparent."""
        return self.background != "opaque" and self.output_format != "jpeg"

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return (*self.images, *filter(None, (self.mask, self.markup)))

    def jobs(self) -> list[Job]:
        """[image 1 variant 1, image 1 variant 2, image 2 variant 1, …]; openai's images are all references of one."""
        edits = [(image,) for image in self.images] if self.dialect == "classic" else [self.images]
        seeds = [(self.seed + variant) % (MAX_SEED + 1) for variant in range(self.variants)]
        pairs = [(references, seed) for references in edits for seed in seeds]
        return [Job(self, index, references, seed) for index, (references, seed) in enumerate(pairs)]


@dataclass(frozen=True)
class Job:
    edit: Edit
    index: int
    references: tuple[Picture, ...]
    seed: int


@asynccontextmanager
async def read_edit(
    request: Request[Any], purpose: Purpose, settings: Settings, spool: Spool, threads: CapacityLimiter
) -> AsyncIterator[Edit]:
    """The request's edit, whose pictures can be read until the end. Heavy work is done in few `threads`."""
    headers = request.headers
    _require_plain(headers)
    with refused_when_full(), spool.share() as share, ExitStack() as opened:
        declared = min(content_length(headers), settings.max_body_bytes)
        # The pictures of a JSON body are kept once more, decoded.
        chunks = share.filled(request.stream(), declared, copies=2 if is_json(headers) else 1)
        reading = (
            open_json(chunks, threads, needs_pictures=purpose == "edit")
            if is_json(headers)
            else open_multipart(headers, chunks)
        )
        async with reading as parts:
            dialect = hear_parts(request.scope, parts)
            linked = await anyio.to_thread.run_sync(link_addresses, parts, opened)
            edit = edit_of(linked, dialect, settings, purpose)
            await fetch_all([picture.upload for picture in edit.pictures], settings.allowed_image_hosts, share)
            # The texts of one PNG may unpack to 64 MB.
            await anyio.to_thread.run_sync(_check, edit.pictures, settings.max_input_pixels, limiter=threads)
            yield edit


def _require_plain(headers: Headers) -> None:
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {coding[:SHOWN_CHARS]!r} is not taken: send the body as it is")


def _check(pictures: tuple[Picture, ...], max_pixels: int) -> None:
    for picture in pictures:
        picture.check(max_pixels)


def edit_of(parts: list[Part], dialect: Dialect, settings: Settings, purpose: Purpose = "edit") -> Edit:
    """All that can be known before a picture is looked at."""
    form = Form(parts)
    given = Given(form.texts, settings)
    given.check(fields.RESPONSE_FORMAT, *fields.CHECKED)
    images = _images(form, dialect, settings) if purpose == "edit" else _no_images(form)
    mask = _one_picture("mask", form.masks, dialect, len(images))
    markup = _one_picture("markup", form.markups, dialect, len(images))
    lora, named_by = _lora(given, settings)
    if mask and markup:
        raise InvalidInput("markup and mask exclude each other: send one of the two", param="markup")
    return Edit(
        purpose=purpose,
        dialect=dialect,
        prompt=_prompt(given),
        negative_prompt=given[fields.NEGATIVE_PROMPT],
        images=images,
        mask=mask,
        markup=markup,
        variants=_variants(given, dialect, len(images), settings),
        size=_size(given, dialect, settings, masked=mask is not None),
        steps=given[fields.STEPS],
        true_cfg_scale=given[fields.TRUE_CFG_SCALE],
        seed=_seed(given),
        output_format=given[fields.OUTPUT_FORMAT],
        output_compression=given[fields.OUTPUT_COMPRESSION],
        background=_background(given),
        cache=given[fields.CACHE],
        lora=lora,
        quality=given[fields.QUALITY],
        layers=given[fields.LAYERS],
        resolution=given[fields.RESOLUTION],
        most_layers=settings.max_outputs_per_request // max(1, len(images) if dialect == "classic" else 1),
        usual_size=given.text(fields.SIZE) is None,
        stream=given[fields.STREAM],
        partial_images=given[fields.PARTIAL_IMAGES],
        fields={
            **({"image": images[0].name} if images else {}),
            "num_inference_steps": given.spelling(fields.STEPS),
            "true_cfg_scale": given.spelling(fields.TRUE_CFG_SCALE),
            **{name: name for name in TENSORS},
            "lora": named_by,
        },
    )


def _images(form: Form, dialect: Dialect, settings: Settings) -> tuple[Picture, ...]:
    batch = _pictures(BATCH, form.batch)
    references = _pictures("image", form.references)
    if batch and references:
        raise InvalidInput("images (a batch) and image (references of one edit) exclude each other", param=BATCH)
    if len(batch) > (most := in_force(fields.BATCH_FILES.most, settings)):
        raise InvalidInput(f"images takes at most {most} files, got {len(batch)}", param=BATCH)
    if len(references) > (most := in_force(fields.REFERENCE_FILES.most, settings)):
        name = references[0].name
        problem = f"{name} takes at most {most} references on this server, got {len(references)}"
        raise InvalidInput(problem, param=name)
    if not batch and not references:
        raise InvalidInput("Image is required", param=BATCH if dialect == "classic" else "image")
    return batch or references


def _no_images(form: Form) -> tuple[Picture, ...]:
    pictures = {BATCH: form.batch, "image": form.references, "mask": form.masks, "markup": form.markups}
    for name, uploads in pictures.items():
        if uploads:
            raise InvalidInput(f"{name}: a picture is made of the prompt alone here; POST /v1/images/edits", param=name)
    return ()


def _one_picture(name: str, uploads: list[UploadFile], dialect: Dialect, images: int) -> Picture | None:
    """That belongs to the first image."""
    pictures = _pictures(name, uploads)
    if len(pictures) > 1:
        raise InvalidInput(f"{name} takes one file, got {len(pictures)}", param=name)
    if pictures and dialect == "classic" and images > 1:
        raise InvalidInput(f"{name} needs exactly one file named images, got {images}", param=name)
    return pictures[0] if pictures else None


def _pictures(name: str, uploads: list[UploadFile]) -> tuple[Picture, ...]:
    names = [upload.field if isinstance(upload, Linked) else name for upload in uploads]
    labels = names if len(names) == 1 else [f"{name} (file {index + 1})" for index, name in enumerate(names)]
    return tuple(map(Picture, names, labels, uploads))


def _prompt(given: Given) -> str:
    prompt = given[fields.PROMPT]
    if prompt is None and (given[fields.LAYERS] or given[fields.RESOLUTION]):
        return ""
    if prompt is None:
        raise InvalidInput("prompt is required", param="prompt")
    return prompt


def _variants(given: Given, dialect: Dialect, images: int, settings: Settings) -> int:
    """n counts outputs per image in the classic dialect, outputs in all in OpenAI's, where 0 means not given."""
    not_given = dialect == "openai" and given.text(fields.N) == "0"
    variants = fields.N.default if not_given else given[fields.N]
    outputs = variants * (images if dialect == "classic" else 1)
    if outputs > settings.max_outputs_per_request:
        problem = f"{outputs} outputs were asked for, at most {settings.max_outputs_per_request} are allowed"
        raise InvalidInput(f"n={variants}: {problem}", param="n")
    return variants


def _size(given: Given, dialect: Dialect, settings: Settings, *, masked: bool) -> tuple[int, int] | None:
    """Left out by a classic caller: square, but of the picture's shape where a mask has that too."""
    if given.text(fields.SIZE):
        return given[fields.SIZE]
    return classic_size(settings) if dialect == "classic" and not masked else None


def classic_size(settings: Settings) -> tuple[int, int]:
    """The largest square up to the classic one that this server allows."""
    side = min(CLASSIC_SIDE, settings.max_side, math.isqrt(settings.max_pixels))
    return side, side


def _background(given: Given) -> str:
    background = given[fields.BACKGROUND]
    if background == "transparent" and given[fields.OUTPUT_FORMAT] == "jpeg":
        problem = "background=transparent needs output_format png or webp: jpeg has no transparency"
        raise InvalidInput(problem, param="background")
    return background


def _lora(given: Given, settings: Settings) -> tuple[str | None, str]:
    """What names adapters, for the model to read, and the field that does."""
    lora, model = given[fields.LORA], given[fields.MODEL] or ""
    served, colon, name = model.partition(f"{settings.served_model}:")
    if served or not colon:
        return lora, "lora"
    if lora is not None:
        raise InvalidInput("lora and an adapter in model exclude each other: send one of the two", param="lora")
    return json.dumps({name: 1.0}), "model"


def _seed(given: Given) -> int:
    seed = given[fields.SEED]
    return secrets.randbelow(MAX_RANDOM_SEED + 1) if seed is None else seed
