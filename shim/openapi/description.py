"""GET /openapi.json: the routes of `app.py` in OpenAPI 3.1, with the limits and defaults that are in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shim.errors import (
    ANSWERS,
    BodyTimeout,
    Forbidden,
    GenerationError,
    GenerationTimeout,
    InternalError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    PayloadTooLarge,
    QueueFull,
    ShimError,
    Unauthorized,
    UnsupportedMediaType,
)
from shim.health import VERSION
from shim.limits import MAX_URL_CHARS
from shim.openapi.schemas import EVENTS, Schema, or_structure, schemas
from shim.reading.edit import classic_size
from shim.reading.fields import ADDRESSES, BATCH_FILES, FIELDS, REFERENCE_FILES, Pictures
from shim.reading.kinds import in_force
from shim.running.abilities import Abilities, within
from shim.settings import Settings

MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
DEPLOYMENT = {**MODEL, "description": "Any."}
REQUEST_ID = {"description": "The caller's own, if well formed, else a new one.", "schema": {"type": "string"}}
REQUEST_ID_GIVEN = {
    "name": "x-request-id",
    "in": "header",
    "description": "By which logs and the answer name the request.",
    "schema": {"type": "string"},
}
EDIT_ERRORS = (
    *(InvalidInput, Unauthorized, Forbidden, BodyTimeout, PayloadTooLarge, UnsupportedMediaType, QueueFull),
    *(GenerationError, InternalError, ModelNotReady, GenerationTimeout),
)
ABOUT_EDITS = """\
Two kinds of caller. Files named `images` are a batch: each is edited on its own, with `n` variants of each. Files named
`image` or `image[]`, addresses in `url` or `url[]`, and the `images` of a JSON body are references of one edit with `n`
outputs. One of the two kinds is needed, and both in one request are refused. Empty text is the same as a field left
out; the last of a repeated field wins; unknown fields are ignored; `svg`, `frame_count` and `num_frames` are refused.

A Qwen-Image-Layered checkpoint takes a picture apart: `data` has its layers from the bottom up, each with its `layer`,
`size` and `usage`, in png or webp. `layers` and `resolution` are its own; others refuse them.

Errors have the shape of the caller's kind: a string `error` beside `message`, or OpenAI's `error` object."""
ABOUT_MARKUPS = (
    "A drawing with transparency that is laid over the first picture, whose proportions it has; not with a mask."
)
ABOUT_GENERATIONS = """\
Where the checkpoint makes pictures of a text alone, as Qwen-Image-2.1 does; another refuses, as it only edits.
The fields are those of an edit, without its pictures. Errors have OpenAI's shape."""
ABOUT_STREAMS = """\
With `stream=true`: server-sent events. `image_edit.partial_image` (PartialImageEvent), one `image_edit.completed`
(CompletedEvent) for each output, and `error` (ErrorEvent), after which the stream ends; of a generation the names begin
with `image_generation`. Lines that begin with a colon are comments: they keep the connection alive and may report the
step, as in `: progress 12/50`."""


def describe(
    settings: Settings,
    edit_paths: Iterable[str],
    generation_paths: Iterable[str] = (),
    abilities: Abilities | None = None,
) -> dict[str, Any]:
    """`abilities`: the model's, where it has told them."""
    settings = within(settings, abilities)
    paths: dict[str, Any] = {
        **{path: {"post": _edit(settings, index)} for index, path in enumerate(edit_paths)},
        **{path: {"post": _generation(settings, index)} for index, path in enumerate(generation_paths)},
    }
    if abilities and abilities.layers:
        for path in edit_paths:
            edit = paths[path]["post"]
            edit["x-layers"] = abilities.layers
            for body in edit["requestBody"]["content"].values():
                body["schema"]["required"] = [name for name in body["schema"]["required"] if name != "prompt"]
    for path in generation_paths if abilities else ():
        paths[path]["post"]["x-available"] = bool(abilities and abilities.generations)
    for path, item in paths.items():
        if "{model}" in path:
            item["parameters"] = [DEPLOYMENT]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Qwen-Image-Edit",
            "version": VERSION,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "Where this description was fetched from."}],
        "paths": {**_probes(), **_models(settings), **paths},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "Any user; the key is the password."},
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _probes() -> dict[str, Any]:
    foreign = _errors([Forbidden])
    unready = _errors([ModelNotReady], {"$ref": "#/components/schemas/ClassicError"})
    return {
        "/": {
            "get": _get("page", "A page on which to try edits", {"text/html": {"schema": {"type": "string"}}}, foreign)
        },
        "/health": {"get": _get("health", "Is the process alive", _json("Health"))},
        "/ready": {"get": _get("ready", "Is a model behind it, so that edits can be sent", _json("Ready"), unready)},
        "/metrics": {"get": _get("metrics", "Metrics for Prometheus", {"text/plain": {"schema": {"type": "string"}}})},
        "/openapi.json": {
            "get": _get("openapi", "This description", {"application/json": {"schema": {"type": "object"}}}, foreign)
        },
    }


def _models(settings: Settings) -> dict[str, Any]:
    shut = [Unauthorized, Forbidden]
    all_models = _get("listModels", "The model that is served", _json("Models"), _errors(shut))
    one = _get("retrieveModel", "The same by its name", _json("Model"), _errors([*shut, ModelNotFound]))
    security = {"security": _security(settings)}
    return {
        "/v1/models": {"get": all_models | security},
        "/v1/models/{model}": {"get": one | security, "parameters": [MODEL]},
    }


def _edit(settings: Settings, index: int) -> dict[str, Any]:
    bodies = {"multipart/form-data": _multipart(settings), "application/json": _json_body(settings)}
    return _post("editImages", index, "Edit images after a prompt", ABOUT_EDITS, settings, bodies)


def _generation(settings: Settings, index: int) -> dict[str, Any]:
    fields = _fields(settings)
    prompt = fields.pop("prompt")
    nullable = {name: _or_null(schema) for name, schema in fields.items()}
    bodies = {
        "application/json": _object_of({"prompt": prompt, **nullable}),
        "multipart/form-data": _object_of({"prompt": prompt, **fields}),
    }
    return _post("generateImages", index, "Make images of a prompt alone", ABOUT_GENERATIONS, settings, bodies)


def _object_of(fields: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(fields), "required": ["prompt"]}


def _post(
    name: str, index: int, summary: str, about: str, settings: Settings, bodies: Mapping[str, Schema]
) -> dict[str, Any]:
    return {
        "operationId": name + (str(index + 1) if index else ""),
        "summary": summary,
        "description": about,
        "security": _security(settings),
        "parameters": [REQUEST_ID_GIVEN],
        "requestBody": {"required": True, "content": {kind: {"schema": body} for kind, body in bodies.items()}},
        "responses": {
            "200": {
                "description": "The images. " + ABOUT_STREAMS,
                "headers": {"x-request-id": REQUEST_ID},
                "content": {**_json("Images"), "text/event-stream": {"schema": EVENTS}},
            },
            **_errors(EDIT_ERRORS),
        },
    }


def _get(
    name: str, summary: str, content: Mapping[str, Any], errors: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    ok = {"description": summary, "headers": {"x-request-id": REQUEST_ID}, "content": content}
    return {"operationId": name, "summary": summary, "security": [], "responses": {"200": ok, **(errors or {})}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _errors(kinds: Iterable[type[ShimError]], schema: Schema | None = None) -> dict[str, Any]:
    """Several kinds may have one status."""
    responses: dict[str, Any] = {}
    for kind in kinds:
        answer = ANSWERS[kind]
        response = responses.setdefault(
            str(answer.status),
            {
                "description": "",
                "headers": {"x-request-id": REQUEST_ID},
                "content": {"application/json": {"schema": schema or {"$ref": "#/components/schemas/Error"}}},
            },
        )
        response["description"] = " or ".join(filter(None, (response["description"], f"`{answer.code}`")))
        response["headers"] |= {name: {"schema": {"type": "string"}} for name in answer.headers}
    return responses


def _security(settings: Settings) -> list[dict[str, list[str]]]:
    """A server without a key takes any, and none."""
    schemes: list[dict[str, list[str]]] = [{"basic": []}, {"bearer": []}, {"apiKey": []}]
    return schemes if settings.has_keys else [*schemes, {}]


def _multipart(settings: Settings) -> Schema:
    file = {"type": "string", "format": "binary"}
    address = {"type": "string", "maxLength": MAX_URL_CHARS}
    each = (
        "Pictures that are each edited on their own, `n` times. "
        f"PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF with at most {settings.max_input_pixels} pixels each, "
        "a JPEG twice as many."
    )
    pictures = {
        **_lists(BATCH_FILES, file, each, settings),
        **_lists(REFERENCE_FILES, file, "References of one edit.", settings),
        **_lists(ADDRESSES, address, _about_addresses(settings), settings),
        "mask": {**file, "description": _about_masks() + " With `images`, only with exactly one."},
        "markup": {**file, "description": ABOUT_MARKUPS},
    }
    fields = _fields(settings)
    width, height = classic_size(settings)
    fields["size"]["description"] += f" Left out: {width}x{height} with `images`, else auto."
    return {
        "type": "object",
        "properties": {"prompt": fields.pop("prompt"), **pictures, **fields},
        # That one kind of picture is needed, too, is said in words: generators make no body of a choice of `required`.
        "required": ["prompt"],
    }


def _lists(pictures: Pictures, item: Schema, description: str, settings: Settings) -> dict[str, Schema]:
    """By its first spelling: generators make one name of all of them, and then no body at all."""
    most = in_force(pictures.most, settings)
    first, *others = pictures.spellings
    also = f" Also named {', '.join(f'`{name}`' for name in others)}." if others else ""
    return {first: {"type": "array", "items": item, "minItems": 1, "maxItems": most, "description": description + also}}


def _json_body(settings: Settings) -> Schema:
    source = {
        "type": "object",
        "properties": {
            "image_url": {"type": "string", "maxLength": MAX_URL_CHARS, "description": _about_addresses(settings)}
        },
        "required": ["image_url"],
    }
    pictures = {
        "images": {
            "type": "array",
            "items": source,
            "minItems": 1,
            "maxItems": settings.most_references,
            "description": "References of one edit.",
        },
        "mask": {**_or_null(source), "description": _about_masks()},
        "markup": {**_or_null(source), "description": ABOUT_MARKUPS},
    }
    fields = {name: _or_null(schema) for name, schema in _fields(settings).items() if name != "prompt"}
    fields["lora"] = or_structure(fields["lora"])
    prompt = _fields(settings)["prompt"]
    return {
        "type": "object",
        "properties": {"prompt": prompt, **pictures, **fields},
        "required": ["prompt", "images"],
    }


def _about_addresses(settings: Settings) -> str:
    if not settings.allowed_image_hosts:
        return "A data: URL with base64. This server fetches nothing from other hosts."
    return "A data: URL with base64, or an http(s) URL of a host that this server allows."


def _about_masks() -> str:
    return (
        "A picture with the first one's proportions. Where its alpha is below 128 is edited, or, without an alpha "
        "channel, where it is bright."
    )


def _fields(settings: Settings) -> dict[str, Schema]:
    """What is text in a form; JSON has numbers and booleans of the same names."""
    return {name: schema for field in FIELDS for name, schema in field.schemas(settings)}


def _or_null(schema: Schema) -> Schema:
    nullable = {**schema, "type": [schema["type"], "null"]}
    return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable
