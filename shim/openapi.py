"""GET /openapi.json: the routes of `app.py` in OpenAPI 3.1, with the limits and defaults that are in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shim.errors import (
    ANSWERS,
    BodyTimeout,
    GenerationError,
    GenerationTimeout,
    InternalError,
    InvalidInput,
    ModelNotReady,
    PayloadTooLarge,
    QueueFull,
    ShimError,
    Unauthorized,
)
from shim.limits import MAX_BATCH_IMAGES, MAX_PROMPT_CHARS, MAX_SEED, MAX_URL_CHARS, MAX_VARIANTS, MIN_SIDE
from shim.reading.edit import MAX_CFG_SCALE, MAX_PARTIAL_IMAGES, OUTPUT_FORMATS, STEPS, TRUE_CFG_SCALE, classic_size
from shim.settings import Settings
from shim.version import VERSION

Schema = dict[str, Any]

DEPLOYMENT = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Any."}
REQUEST_ID = {"description": "The caller's own, if well formed, else a new one.", "schema": {"type": "string"}}
EDIT_ERRORS = (
    *(InvalidInput, Unauthorized, BodyTimeout, PayloadTooLarge, QueueFull, GenerationError, InternalError),
    *(ModelNotReady, GenerationTimeout),
)
ABOUT_EDITS = """\
Two kinds of caller. Files named `images` are a batch: each is edited on its own, with `n` variants of each. Files named
`image` or `image[]`, addresses in `url` or `url[]`, and the `images` of a JSON body are references of one edit with `n`
outputs. Both kinds in one request are refused. Empty text is the same as a field left out; the last of a repeated
field wins; unknown fields are ignored; `markup`, `svg` and `frame_count` are refused.

Errors have the shape of the caller's kind: a string `error` beside `message`, or OpenAI's `error` object."""
ABOUT_STREAMS = """\
With `stream=true`: server-sent events. `image_edit.partial_image` (PartialImageEvent), one `image_edit.completed`
(CompletedEvent) for each output, and `error` (ErrorEvent), after which the stream ends. Lines that begin with a colon
are comments: they keep the connection alive and may tell the step, as in `: progress 12/50`."""


def describe(settings: Settings, edit_paths: Iterable[str]) -> dict[str, Any]:
    paths: dict[str, Any] = {path: {"post": _edit(settings, index)} for index, path in enumerate(edit_paths)}
    for path, item in paths.items():
        if "{model}" in path:
            item["parameters"] = [DEPLOYMENT]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qwen-Image-Edit", "version": VERSION},
        "paths": {**_probes(), "/v1/models": {"get": _models(settings)}, **paths},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "Any user; the key is the password."},
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _probes() -> dict[str, Any]:
    unready = _errors([ModelNotReady], {"$ref": "#/components/schemas/ClassicError"})
    return {
        "/": {"get": _get("page", "A page on which to try edits", {"text/html": {"schema": {"type": "string"}}})},
        "/health": {"get": _get("health", "Is the process alive", _json("Health"))},
        "/ready": {"get": _get("ready", "Is a model behind it, so that edits can be sent", _json("Ready"), unready)},
        "/metrics": {"get": _get("metrics", "Metrics for Prometheus", {"text/plain": {"schema": {"type": "string"}}})},
        "/openapi.json": {
            "get": _get("openapi", "This description", {"application/json": {"schema": {"type": "object"}}})
        },
    }


def _models(settings: Settings) -> dict[str, Any]:
    operation = _get("listModels", "The model that is served", _json("Models"), _errors([Unauthorized]))
    return {**operation, "security": _security(settings)}


def _edit(settings: Settings, index: int) -> dict[str, Any]:
    return {
        "operationId": "editImages" + (str(index + 1) if index else ""),
        "summary": "Edit images after a prompt",
        "description": ABOUT_EDITS,
        "security": _security(settings),
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _multipart(settings)},
                "application/json": {"schema": _json_body(settings)},
            },
        },
        "responses": {
            "200": {
                "description": "The edited images. " + ABOUT_STREAMS,
                "headers": {"x-request-id": REQUEST_ID},
                "content": {**_json("Images"), "text/event-stream": {"schema": {"type": "string"}}},
            },
            **_errors(EDIT_ERRORS),
        },
    }


def _get(
    name: str, summary: str, content: Mapping[str, Any], errors: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    ok = {"description": summary, "headers": {"x-request-id": REQUEST_ID}, "content": content}
    return {"operationId": name, "summary": summary, "responses": {"200": ok, **(errors or {})}}


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
    return schemes if settings.api_key else [*schemes, {}]


def _multipart(settings: Settings) -> Schema:
    file = {"type": "string", "format": "binary"}
    address = {"type": "string", "maxLength": MAX_URL_CHARS}
    references = {"type": "array", "minItems": 1, "maxItems": settings.max_references}
    pictures = {
        "images": {
            "type": "array",
            "items": file,
            "minItems": 1,
            "maxItems": MAX_BATCH_IMAGES,
            "description": "Pictures that are each edited on their own, `n` times. "
            f"PNG, JPEG, WebP, GIF, BMP or TIFF with at most {settings.max_input_pixels} pixels each.",
        },
        "image": {**references, "items": file, "description": "References of one edit. The same as `image[]`."},
        "image[]": {**references, "items": file, "description": "References of one edit."},
        "url": {**references, "items": address, "description": _about_addresses(settings)},
        "url[]": {**references, "items": address, "description": "The same as `url`."},
        "mask": {**file, "description": _about_masks() + " With `images`, only with exactly one."},
    }
    fields = _fields(settings)
    width, height = classic_size(settings)
    fields["size"]["description"] += f" Left out: {width}x{height} with `images`, else auto."
    return {
        "type": "object",
        "properties": {"prompt": fields.pop("prompt"), **pictures, **fields},
        "required": ["prompt"],
        "anyOf": [{"required": [name]} for name in pictures if name != "mask"],
    }


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
            "maxItems": settings.max_references,
            "description": "References of one edit.",
        },
        "mask": {**_or_null(source), "description": _about_masks()},
    }
    fields = {name: _or_null(schema) for name, schema in _fields(settings).items() if name != "prompt"}
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
    steps = _number("integer", 2, settings.max_steps, "Denoising steps. Left out: the model's own.")
    true_cfg_scale = _number("number", 0, MAX_CFG_SCALE, "Guidance, off up to 1. Left out: the model's own.")
    return {
        "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT_CHARS, "description": "What to change."},
        "negative_prompt": {"type": "string", "maxLength": MAX_PROMPT_CHARS, "description": "What to avoid."},
        "n": {**_number("integer", 1, MAX_VARIANTS, "Outputs, of each picture in a batch."), "default": 1},
        "size": {
            "type": "string",
            "pattern": "^([0-9]+[xX][0-9]+|[aA][uU][tT][oO])$",
            "description": f"WIDTHxHEIGHT or auto; sides from {MIN_SIDE} to {settings.max_side}, at most "
            f"{settings.max_pixels} pixels. Rounded down to what the model can make; the answer says.",
            "x-sides": {"minimum": MIN_SIDE, "maximum": settings.max_side},
            "x-pixels": {"maximum": settings.max_pixels},
        },
        STEPS[0]: steps,
        **{name: {**steps, "description": f"The same as `{STEPS[0]}`."} for name in STEPS[1:]},
        TRUE_CFG_SCALE[0]: true_cfg_scale,
        **{
            name: {**true_cfg_scale, "description": f"The same as `{TRUE_CFG_SCALE[0]}`."}
            for name in TRUE_CFG_SCALE[1:]
        },
        "seed": _number("integer", 0, MAX_SEED, "Variant i has the seed plus i. Left out: random, and reported."),
        "output_format": {"type": "string", "enum": list(OUTPUT_FORMATS), "default": OUTPUT_FORMATS[0]},
        "output_compression": {**_number("integer", 0, 100, "The quality of jpeg and webp."), "default": 100},
        "response_format": {"type": "string", "enum": ["b64_json"], "default": "b64_json"},
        "stream": {"type": "boolean", "default": False},
        "partial_images": {
            **_number("integer", 0, MAX_PARTIAL_IMAGES, "Unfinished images on the way, in a stream."),
            "default": 0,
        },
        "background": {"type": "string", "enum": ["auto", "opaque"], "description": "Changes nothing."},
        "output_type": {"type": "string", "enum": ["pil", "pt"], "description": "Changes nothing."},
        "max_sequence_length": _number("integer", 1, 1024, "Changes nothing."),
        "guidance_scale": _number("number", 0, MAX_CFG_SCALE, "Changes nothing."),
        **{name: {"type": "string", "description": "Changes nothing."} for name in IGNORED},
    }


IGNORED = ("model", "user", "quality", "input_fidelity", "moderation", "safety_identifier", "complexity")


def _number(kind: str, low: float, high: float, description: str) -> Schema:
    return {"type": kind, "minimum": low, "maximum": high, "description": description}


def _or_null(schema: Schema) -> Schema:
    nullable = {**schema, "type": [schema["type"], "null"]}
    return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable


def _object(optional: Mapping[str, Schema] | None = None, **required: Schema) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _schemas() -> dict[str, Schema]:
    text: Schema = {"type": "string"}
    count: Schema = {"type": "integer", "minimum": 0}
    text_or_null: Schema = {"type": ["string", "null"]}
    openai_error = _object(message=text, type=text, param=text_or_null, code=text)
    b64_json = {**text, "contentEncoding": "base64", "description": "The picture's bytes."}
    tokens = {
        "input_tokens": count,
        "output_tokens": count,
        "total_tokens": count,
        "input_tokens_details": _object(text_tokens=count, image_tokens=count),
    }
    classic_usage = {"processing_time_seconds": {"type": "number"}, "input_images": count, "generated_images": count}
    usage = _object(**tokens, **classic_usage)
    event = {"b64_json": b64_json, "created_at": count, "size": text, "quality": text, "background": text}
    event["output_format"] = {"type": "string", "enum": list(OUTPUT_FORMATS)}
    index = {"index": {**count, "description": "Which of several outputs."}}
    model = _object(id=text, object={"const": "model"}, created=count, owned_by=text)
    return {
        "Health": _object(status={"const": "healthy"}, timestamp=text, version=text),
        "Ready": _object(status={"const": "ready"}, model_loaded={"const": True}, timestamp=text),
        "Models": _object(object={"const": "list"}, data={"type": "array", "items": model}),
        "Images": _object(
            created=count,
            data={"type": "array", "items": _object(b64_json=b64_json, seed=count), "minItems": 1},
            size={**text, "description": "WIDTHxHEIGHT, of the first."},
            output_format=event["output_format"],
            usage=usage,
        ),
        "PartialImageEvent": _object(
            index, type={"const": "image_edit.partial_image"}, partial_image_index=count, **event
        ),
        "CompletedEvent": _object(type={"const": "image_edit.completed"}, **index, seed=count, **event, usage=usage),
        "ErrorEvent": _object(type={"const": "error"}, error=openai_error),
        "ClassicError": _object(error={"enum": _codes()}, message=text),
        "OpenAIError": _object(error=openai_error),
        "Error": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("ClassicError", "OpenAIError")]},
    }


def _codes() -> list[str]:
    return [answer.code for answer in ANSWERS.values() if answer.status != 499]
