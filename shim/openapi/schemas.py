"""The shapes of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shim.errors import ANSWERS
from shim.reading.fields import OUTPUT_FORMATS

Schema = dict[str, Any]

# OpenAPI 3.1 has no words for a stream; each event's `data` is one of these.
EVENTS: Schema = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {
        "oneOf": [
            {"$ref": f"#/components/schemas/{name}"} for name in ("PartialImageEvent", "CompletedEvent", "ErrorEvent")
        ]
    },
}


def _object(optional: Mapping[str, Schema] | None = None, **required: Schema) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def schemas() -> dict[str, Schema]:
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
        "output_tokens_details": _object(text_tokens=count, image_tokens=count),
    }
    classic_usage = {"processing_time_seconds": {"type": "number"}, "input_images": count, "generated_images": count}
    usage = _object(**tokens, **classic_usage)
    event = {"b64_json": b64_json, "created_at": count, "size": text, "quality": text}
    event["background"] = {"type": "string", "enum": ["opaque", "transparent"]}
    event["output_format"] = {"type": "string", "enum": list(OUTPUT_FORMATS)}
    index = {"index": {**count, "description": "Which of several outputs."}}
    abilities = {
        "max_references": {**count, "description": "Most reference pictures of an edit."},
        "generations": {"type": "boolean", "description": "Whether it makes pictures of a prompt alone."},
        "transparent_background": {"type": "boolean", "description": "Whether `background=transparent` is obeyed."},
    }
    abilities["layers"] = {**count, "description": "Most layers that it takes a picture apart into; 0: it edits it."}
    abilities["lora"] = {"type": "array", "items": text, "description": "Names of adapters that an edit may ask for."}
    caption = {"revised_prompt": {**text, "description": "The model's caption, where there was no prompt."}}
    layer = {"layer": {**count, "description": "Of a picture that was taken apart, from the bottom up."}, **caption}
    model = _object(abilities, id=text, object={"const": "model"}, created=count, owned_by=text)
    return {
        "Health": _object(status={"const": "healthy"}, timestamp=text, version=text),
        "Ready": _object(status={"const": "ready"}, model_loaded={"const": True}, timestamp=text),
        "Model": model,
        "Models": _object(object={"const": "list"}, data={"type": "array", "items": model}),
        "Images": _object(
            {
                "num_inference_steps": {**count, "description": "Steps made, where they or a quality were asked for."},
                "quality": {**text, "description": "The preset that was made, where one was asked for."},
            },
            created=count,
            data={
                "type": "array",
                "items": _object({**layer, "size": text, "usage": usage}, b64_json=b64_json, seed=count),
                "minItems": 1,
            },
            size={**text, "description": "WIDTHxHEIGHT, of the first."},
            output_format=event["output_format"],
            background=event["background"],
            usage=usage,
        ),
        "PartialImageEvent": _object(index, type=_event("partial_image"), partial_image_index=count, **event),
        "CompletedEvent": _object(layer, type=_event("completed"), **index, seed=count, **event, usage=usage),
        "ErrorEvent": _object(type={"const": "error"}, error=openai_error),
        "ClassicError": _object(error={"type": "string", "enum": _codes()}, message=text),
        "OpenAIError": _object(error=openai_error),
        "Error": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("ClassicError", "OpenAIError")]},
    }


def _event(name: str) -> Schema:
    return {"enum": [f"image_edit.{name}", f"image_generation.{name}"]}


def _codes() -> list[str]:
    return [answer.code for answer in ANSWERS.values() if answer.status != 499]


def or_structure(schema: Schema) -> Schema:
    """Of a text that may be an object of weights or a list as well, each told so that generators find a type for it."""
    about: Schema = {name: schema[name] for name in ("description", "default") if name in schema}
    text = {name: value for name, value in schema.items() if name not in about}
    weights = {"type": "object", "additionalProperties": {"type": "number"}}
    return {"anyOf": [text, weights, {"type": "array", "items": {"type": "string"}}], **about}
