from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from starlette.datastructures import UploadFile
from starlette.routing import Route
from starlette.testclient import TestClient

from shim.app import EDIT_PATHS, GENERATION_PATHS, create_app
from shim.errors import ANSWERS, ClientGone, InvalidInput
from shim.openapi.description import describe
from shim.reading.edit import edit_of
from shim.reading.fields import json_kinds
from shim.settings import Settings

# The fields that docs/api.md documents, by the bodies that take them.
BOTH = {
    *(
        "prompt",
        "mask",
        "markup",
        "images",
        "n",
        "size",
        "negative_prompt",
        "num_inference_steps",
        "steps",
        "sampling_steps",
    ),
    *("true_cfg_scale", "cfg_scale", "cfg", "guidance_scale", "seed", "output_format", "output_compression"),
    *("response_format", "stream", "partial_images", "output_type", "max_sequence_length", "model", "user", "quality"),
    *(
        "lora",
        "input_fidelity",
        "background",
        "cache",
        "layers",
        "resolution",
        "moderation",
        "safety_identifier",
        "complexity",
    ),
}
FORM_ONLY = {"image", "url"}  # their other spellings are told in words
REFUSED = ("svg", "frame_count", "num_frames")
MULTIPART, JSON = "multipart/form-data", "application/json"


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return describe(Settings(), EDIT_PATHS, GENERATION_PATHS)


def body(description: dict[str, Any], kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = description["paths"][EDIT_PATHS[0]]["post"]["requestBody"]["content"][kind]["schema"]
    return schema


def refused(name: str, value: object) -> bool:
    picture = UploadFile(io.BytesIO(b"x"), size=1, filename="a.png")
    try:
        edit_of([("image", picture), ("prompt", "p"), (name, str(value))], "openai", Settings())
    except InvalidInput as error:
        return error.param == name
    return False


def test_it_is_served_without_a_key(serve: Callable[..., TestClient]) -> None:
    settings = Settings.from_environment({"API_KEY": "secret", "MAX_STEPS": "7"})
    answer = serve(API_KEY="secret", MAX_STEPS="7").get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == describe(settings, EDIT_PATHS, GENERATION_PATHS)
    assert "secret" not in answer.text


def test_its_paths_are_the_routes(description: dict[str, Any]) -> None:
    routes = [route for route in create_app(Settings()).routes if isinstance(route, Route)]
    served = {
        (route.path_format, method.lower()) for route in routes for method in (route.methods or ()) if method != "HEAD"
    }
    assert {
        (path, method) for path, item in description["paths"].items() for method in item if method != "parameters"
    } == served


@pytest.mark.parametrize(("kind", "names"), [(MULTIPART, BOTH | FORM_ONLY), (JSON, BOTH)])
def test_every_field_is_in_it(description: dict[str, Any], kind: str, names: set[str]) -> None:
    assert set(body(description, kind)["properties"]) == names
    text = description["paths"][EDIT_PATHS[0]]["post"]["description"]
    assert all(f"`{name}`" in text for name in REFUSED)


def test_the_json_body_reads_every_field_as_its_type(description: dict[str, Any]) -> None:
    readers = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}
    fields = {
        name: schema
        for name, schema in body(description, JSON)["properties"].items()
        if name not in ("images", "mask", "markup")
    }
    kinds = json_kinds()
    assert kinds.pop("lora") == "structure"
    assert [each["type"] for each in fields.pop("lora")["anyOf"]] == [["string", "null"], "object", "array"]
    for name, schema in fields.items():
        kind = schema["type"] if name == "prompt" else schema["type"][0]
        assert kinds[name] == readers[kind]
    assert len(fields) == len(kinds)


def test_the_edit_paths_are_one_operation(description: dict[str, Any]) -> None:
    operations = [description["paths"][path]["post"] for path in EDIT_PATHS]
    assert len({operation.pop("operationId") for operation in map(dict, operations)}) == len(operations)
    assert all({**operation, "operationId": ""} == {**operations[0], "operationId": ""} for operation in operations)


def test_numbers_are_accepted_exactly_in_their_documented_range(description: dict[str, Any]) -> None:
    for name, schema in body(description, MULTIPART)["properties"].items():
        if schema["type"] in ("integer", "number"):
            step = 1 if schema["type"] == "integer" else 0.5
            assert not refused(name, schema["minimum"])
            assert not refused(name, schema["maximum"])
            assert refused(name, schema["maximum"] + step)
            if (name, schema["minimum"]) != ("n", 1):  # n=0 is the same as no n
                assert refused(name, schema["minimum"] - step)


def test_words_are_accepted_exactly_as_documented(description: dict[str, Any]) -> None:
    for name, schema in body(description, MULTIPART)["properties"].items():
        words = schema.get("enum", ())
        assert not any(refused(name, word) for word in words)
        if schema["type"] == "string" and name not in ("mask", "markup", "size"):
            assert refused(name, "?") == bool(words)


def test_the_words_for_quality_are_in_it_where_they_mean_something(description: dict[str, Any]) -> None:
    assert "enum" not in body(description, MULTIPART)["properties"]["quality"]
    presets = describe(Settings(quality_presets=True), EDIT_PATHS)
    assert body(presets, MULTIPART)["properties"]["quality"]["enum"] == ["auto", "low", "medium", "high", "max"]
    assert None in body(presets, JSON)["properties"]["quality"]["enum"]


def test_limits_and_hosts_are_the_settings() -> None:
    settings = Settings(
        max_steps=7, max_references=2, max_side=128, max_pixels=9000, allowed_image_hosts=("a.example",)
    )
    schema = body(describe(settings, EDIT_PATHS), MULTIPART)["properties"]
    assert schema["steps"]["maximum"] == 7
    assert schema["image"]["maxItems"] == 2
    assert "64 to 128" in schema["size"]["description"]
    assert schema["size"]["x-sides"] == {"minimum": 64, "maximum": 128}
    assert schema["size"]["x-pixels"] == {"maximum": 9000}
    assert "host that this server allows" in schema["url"]["description"]
    assert "a.example" not in str(schema)


def test_every_error_of_an_edit_is_in_it_with_its_headers(description: dict[str, Any]) -> None:
    responses = description["paths"][EDIT_PATHS[0]]["post"]["responses"]
    for kind, answer in ANSWERS.items():
        if answer.status in (404, 405) or kind is ClientGone:
            continue
        response = responses[str(answer.status)]
        assert f"`{answer.code}`" in response["description"]
        assert {"x-request-id", *answer.headers} <= set(response["headers"])


@pytest.mark.parametrize(("key", "optional"), [("", True), ("secret", False)])
def test_a_key_is_optional_only_where_none_is_set(key: str, optional: bool) -> None:
    security = describe(Settings(api_key=key), EDIT_PATHS)["paths"][EDIT_PATHS[0]]["post"]["security"]
    assert security[:3] == [{"basic": []}, {"bearer": []}, {"apiKey": []}]
    assert ({} in security) == optional


def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [value for key, value in node.items() if key == "$ref"] + references(list(node.values()))
        return [found for item in node for found in references(item)] if isinstance(node, list) else []

    names = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    assert set(references(description)) <= names
