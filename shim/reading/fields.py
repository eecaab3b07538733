"""Every field of an edit, once: how it is read, what JSON has for it, and what the API's description and docs say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from shim.dialect import BATCH, REFERENCES, URLS
from shim.limits import MAX_BATCH_IMAGES, MAX_CFG_SCALE, MAX_LORA_CHARS, MAX_PROMPT_CHARS, MAX_SEED, MAX_VARIANTS
from shim.reading.kinds import (
    Adapters,
    Anything,
    Boolean,
    Choice,
    Integer,
    Json,
    Kind,
    Limit,
    Number,
    OneOf,
    Quality,
    Schema,
    Seed,
    Size,
    Steps,
    Text,
)
from shim.settings import Settings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

OUTPUT_FORMATS = ("png", "jpeg", "webp")
SERVERS = "the server's"


@dataclass(frozen=True)
class Pictures:
    """Parts that are files, or addresses of them."""

    spellings: tuple[str, ...]
    most: int | Limit
    values: str
    default: str = "–"


@dataclass(frozen=True)
class Field(Generic[T_co]):
    """A text part, or a member of a JSON body."""

    name: str
    kind: Kind[T_co]
    default: T_co
    says: str = ""
    also: tuple[str, ...] = ()  # other spellings
    note: str = ""  # beside the values, in the documents
    left_out: str = "–"  # in the documents, where the default is no value
    trimmed: bool = True
    obeyed: bool = True  # else it changes nothing

    @property
    def spellings(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    @property
    def values(self) -> str:
        return f"{self.kind.values()}; {self.note}" if self.note else self.kind.values()

    def schemas(self, settings: Settings) -> Iterator[tuple[str, Schema]]:
        """For each spelling."""
        schema = self.kind.schema(settings)
        if self.default is not None:
            schema["default"] = self.default
        own = [schema.get("description"), self.says if self.obeyed else "Changes nothing."]
        for name in self.spellings:
            told = own if name == self.name else [f"The same as `{self.name}`."]
            description = " ".join(str(sentence) for sentence in told if sentence)
            yield name, {**schema, "description": description} if description else schema


BATCH_FILES = Pictures((BATCH,), MAX_BATCH_IMAGES, f"1 to {MAX_BATCH_IMAGES} files, each an edit of its own")
MAX_REFERENCES = Limit("MAX_REFERENCES", lambda settings: settings.most_references)
REFERENCE_FILES = Pictures(
    REFERENCES, MAX_REFERENCES, f"files, references of one edit: 1 to {MAX_REFERENCES}, 1 for an Edit checkpoint"
)
ADDRESSES = Pictures(URLS, MAX_REFERENCES, "`data:` URLs; http(s) from `ALLOWED_IMAGE_HOSTS`")
MASK = Pictures(
    ("mask",),
    1,
    "a picture of the first image's shape: transparent (alpha < 128) is edited; without alpha, white is",
)
MARKUP = Pictures(
    ("markup",),
    1,
    "a drawing with transparency, laid over the first image, whose shape it has; not with a mask",
)

PROMPT: Field[str | None] = Field(
    "prompt",
    Text(1, MAX_PROMPT_CHARS),
    None,
    "What to change.",
    note="at most what the model's 4096 text positions hold",
    left_out="required; beside `layers` or `resolution`, the model's own caption",
)
N: Field[int] = Field(
    "n",
    Integer(1, MAX_VARIANTS),
    1,
    "Outputs, of each picture in a batch.",
    note="at most `MAX_OUTPUTS_PER_REQUEST` outputs in all",
)
SIZE: Field[tuple[int, int] | None] = Field(
    "size",
    Size(),
    None,
    "Answered exactly. `source`: the first picture's own size, or the largest of its shape; the answer says.",
    left_out="classic 1024x1024, OpenAI or with a mask `auto`",
)
NEGATIVE_PROMPT: Field[str | None] = Field(
    "negative_prompt", Text(0, MAX_PROMPT_CHARS), None, "What to avoid.", left_out=SERVERS, trimmed=False
)
STEPS: Field[int | None] = Field(
    "num_inference_steps",
    Steps(2, Limit("MAX_STEPS", lambda settings: settings.max_steps)),
    None,
    "Denoising steps; 1 is made 2. Left out: the model's own.",
    also=("steps", "sampling_steps"),
    left_out=SERVERS,
)
TRUE_CFG_SCALE: Field[float | None] = Field(
    "true_cfg_scale",
    Number(0, MAX_CFG_SCALE),
    None,
    "Guidance, off up to 1. Left out: the model's own.",
    also=("cfg_scale", "cfg"),
    note="up to 1 turns guidance off and halves the work",
    left_out=SERVERS,
)
SEED: Field[int | None] = Field(
    "seed",
    Seed(MAX_SEED),
    None,
    "Variant i has the seed plus i. Left out: random, and reported.",
    note="variant i uses seed + i",
    left_out="random, reported",
)
OUTPUT_FORMAT: Field[str] = Field("output_format", Choice(OUTPUT_FORMATS, also={"jpg": "jpeg"}), OUTPUT_FORMATS[0])
OUTPUT_COMPRESSION: Field[int] = Field("output_compression", Integer(0, 100), 100, "The quality of jpeg and webp.")
RESPONSE_FORMAT: Field[str] = Field(
    "response_format", Choice(("b64_json",), {"url": "only b64_json is answered"}), "b64_json"
)
BACKGROUND: Field[str] = Field(
    "background",
    Choice(("auto", "opaque", "transparent")),
    "auto",
    "`opaque`: what is transparent in an output is shown on white, as it always is in jpeg. `transparent` asks for it.",
    note="`transparent` where the checkpoint can, in png and webp",
)
CACHE: Field[str] = Field(
    "cache",
    Choice(("auto", "off", "mild")),
    "auto",
    "The step cache: `mild` makes about two thirds of the forwards of more than 8 steps. `auto` is the server's.",
    note="`mild` makes about two thirds of the forwards of more than 8 steps; `auto` is the server's `STEP_CACHE`",
)
LORA: Field[str | None] = Field(
    "lora",
    Adapters(0, MAX_LORA_CHARS),
    None,
    "Adapters of this server that are added, which `GET /v1/models` lists.",
    note="in JSON an object of weights by name, too",
    left_out="none",
)
MODEL: Field[str | None] = Field(
    "model",
    Anything(),
    None,
    "The served model's name, a colon and an adapter's name ask for this adapter. Any other name changes nothing.",
    note="with the served model's name, a colon and an adapter's name it is `lora`; any other changes nothing",
)
QUALITY: Field[str] = Field(
    "quality",
    Quality(("auto", "low", "medium", "high", "max"), also={"standard": "medium", "hd": "high"}),
    "auto",
    note="with `QUALITY_PRESETS`, [below](#quality); else whatever it says, it changes nothing",
)
LAYERS: Field[int | None] = Field(
    "layers",
    Integer(2, 10),
    None,
    "Into how many layers the picture is taken apart, where the model does that; each counts as an output.",
    note="of a Layered checkpoint, each an output; others refuse it",
    left_out="4 of a Layered checkpoint",
)
RESOLUTION: Field[int | None] = Field(
    "resolution",
    OneOf((640, 1024)),
    None,
    "At which a picture is taken apart: the side of a square one.",
    note="of a Layered checkpoint, the side of a square picture; others refuse it",
    left_out="640 of a Layered checkpoint",
)
STREAM: Field[bool] = Field("stream", Boolean(), False)
PARTIAL_IMAGES: Field[int] = Field("partial_images", Integer(0, 3), 0, "Unfinished images on the way, in a stream.")

CHECKED: tuple[Field[object], ...] = (
    Field("output_type", Choice(("pil", "pt")), None, obeyed=False),
    Field("max_sequence_length", Integer(1, 1024), None, obeyed=False),
    Field("guidance_scale", Number(0, MAX_CFG_SCALE), None, obeyed=False),
)
IGNORED: tuple[Field[object], ...] = tuple(
    Field(name, Anything(), None, obeyed=False)
    for name in ("user", "input_fidelity", "moderation", "safety_identifier", "complexity")
)
UNSUPPORTED = {
    "svg": "SVG output is not supported",
    "frame_count": "animations are not supported",
    "num_frames": "animations are not supported",
}

OBEYED: tuple[Pictures | Field[object], ...] = (
    *(PROMPT, BATCH_FILES, REFERENCE_FILES, ADDRESSES, MASK, MARKUP, N, SIZE, NEGATIVE_PROMPT),
    *(
        STEPS,
        TRUE_CFG_SCALE,
        SEED,
        OUTPUT_FORMAT,
        OUTPUT_COMPRESSION,
        BACKGROUND,
        RESPONSE_FORMAT,
        CACHE,
        LORA,
        MODEL,
        QUALITY,
        LAYERS,
        RESOLUTION,
        STREAM,
        PARTIAL_IMAGES,
    ),
)
FIELDS: tuple[Field[object], ...] = (
    *(field for field in OBEYED if isinstance(field, Field)),
    *CHECKED,
    *IGNORED,
)


class Given:
    """The text fields of one request, by name without `[]`. A field that was left out or left blank has its default."""

    def __init__(self, texts: Mapping[str, str], settings: Settings) -> None:
        self._texts = texts
        self._settings = settings

    def __getitem__(self, field: Field[T]) -> T:
        value = self.text(field)
        return field.default if value is None else field.kind.read(self.spelling(field), value, self._settings)

    def check(self, *fields: Field[object]) -> None:
        """What is not obeyed must still be right."""
        for field in fields:
            self[field]

    def text(self, field: Field[object]) -> str | None:
        value = self._texts.get(self.spelling(field), "")
        return (value.strip() if field.trimmed else value) or None

    def spelling(self, field: Field[object]) -> str:
        """Which of several names the client used."""
        return next((name for name in field.spellings if name in self._texts), field.name)


def json_kinds() -> dict[str, Json]:
    """By every spelling."""
    return {name: field.kind.json for field in FIELDS for name in field.spellings}


def markdown_rows() -> list[tuple[str, str, str]]:
    """Names, values and default of every field, in Markdown."""
    obeyed = [(_names(*field.spellings), field.values, _default(field)) for field in OBEYED]
    checked = _names(*(field.name for field in CHECKED)), "checked for old clients, change nothing", "–"
    ignored = _names(*(field.name for field in IGNORED)), "accepted, like any other name, and change nothing", "–"
    return [*obeyed, checked, ignored]


def _names(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _default(field: Pictures | Field[object]) -> str:
    if isinstance(field, Pictures):
        return field.default
    if field.default is None:
        return field.left_out
    return f"`{field.default}`" if isinstance(field.default, str) else json.dumps(field.default)
