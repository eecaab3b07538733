from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from shim.app import EDIT_PATHS, create_app
from shim.health import VERSION
from shim.running.drain import Drain
from shim.settings import Settings

Serve = Callable[..., TestClient]
EDITS = "/v1/images/edits"
PROMPT = {"prompt": "a beautiful landscape"}
SDK = {"x-stainless-lang": "python"}


def openai_error(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"], error["param"]


def classic_error(response: Any) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"error", "message"}
    return response.status_code, body["error"]


def test_health_is_the_process_alone(client: TestClient) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["version"]) == ("healthy", VERSION)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", body["timestamp"])


def test_ready_is_503_while_triton_is_away(client: TestClient) -> None:
    response = client.get("/ready", headers=SDK)
    assert classic_error(response) == (503, "MODEL_NOT_READY")
    assert 1 <= int(response.headers["retry-after"]) <= 60


def test_an_edit_is_503_while_triton_is_away(client: TestClient, png: bytes) -> None:
    response = client.post(EDITS, data=PROMPT, files={"images": png})
    assert classic_error(response) == (503, "MODEL_NOT_READY")
    assert response.headers["retry-after"]
    response = client.post(EDITS, data=PROMPT, files={"image[]": png})
    assert openai_error(response) == (503, "MODEL_NOT_READY", None)
    assert response.headers["retry-after"]


def test_a_long_path_and_a_long_method_are_logged_in_part(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        client.request("X" * 5000, "/" + "a" * 5000)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "image_edit_server"]
    asked = f"{'X' * 20} /{'a' * 199}"
    assert line.startswith(f"{asked}: 404 NOT_FOUND: {asked}: There is nothing at this path; ")


@pytest.mark.parametrize("path", [path.format(model="gpt-image-1") for path in EDIT_PATHS])
def test_every_edit_route_is_the_same(client: TestClient, png: bytes, path: str) -> None:
    response = client.post(f"{path}?api-version=2025-04-01", data={**PROMPT, "n": "11"}, files={"image": png})
    assert openai_error(response) == (400, "INVALID_INPUT", "n")


@pytest.mark.parametrize("path", [EDITS, "/v1/models"])
def test_the_key_is_asked_for(serve: Serve, path: str) -> None:
    client = serve(API_KEY="secret")
    method = "POST" if path == EDITS else "GET"
    response = client.request(method, path)
    if path == EDITS:
        assert classic_error(response) == (401, "UNAUTHORIZED")
    else:
        assert openai_error(response) == (401, "UNAUTHORIZED", None)
    assert response.headers["www-authenticate"].startswith("Basic")
    wrong = client.request(method, path, headers={"authorization": "Bearer x"})
    assert openai_error(wrong) == (401, "UNAUTHORIZED", None)
    assert client.request(method, path, auth=("anyone", "secret")).status_code != 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_need_no_key(serve: Serve, path: str) -> None:
    assert serve(API_KEY="secret").get(path).status_code != 401


def test_the_models_list_has_the_served_model(serve: Serve) -> None:
    body = serve(QWEN_MODEL_DIR="/mnt/models/Qwen-Image-Edit-2511").get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"]) == ("Qwen-Image-Edit-2511", "model")
    assert isinstance(model["created"], int)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", EDITS, 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/health", 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_framework_errors_speak_both_dialects(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    assert classic_error(client.request(method, path)) == (status, code)
    assert openai_error(client.request(method, path, headers=SDK)) == (status, code, None)


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/openai/nothing"])
def test_a_path_that_does_not_exist_is_told_with_what_does(client: TestClient, path: str) -> None:
    response = client.post(path)
    assert openai_error(response) == (404, "NOT_FOUND", None)
    said = "There is nothing at this path; pictures are edited by POST /v1/images/edits"
    assert response.json()["error"]["message"] == f"POST {path}: {said}"


@pytest.mark.parametrize("path", ["/v1/images/edits/", "/v1//images/edits", "//v1/images//edits//", "/images/edits/"])
def test_slashes_too_many_do_not_matter(client: TestClient, png: bytes, path: str) -> None:
    response = client.post(f"http://testserver{path}", data={**PROMPT, "n": "11"}, files={"image": png})
    assert openai_error(response) == (400, "INVALID_INPUT", "n")


def test_a_model_is_told_by_its_name(serve: Serve) -> None:
    client = serve(QWEN_MODEL_DIR="/models/Qwen-Image-Edit-2511", API_KEY="secret")
    key = {"authorization": "Bearer secret"}
    (listed,) = client.get("/v1/models", headers=key).json()["data"]
    assert client.get("/v1/models/Qwen-Image-Edit-2511", headers=key).json() == listed
    other = client.get("/v1/models/gpt-image-1", headers=key)
    assert openai_error(other) == (404, "model_not_found", "model")
    assert openai_error(client.get("/v1/models/gpt-image-1")) == (401, "UNAUTHORIZED", None)


@pytest.mark.parametrize("name", ["Qwen/Qwen-Image-Edit-2511", "Qwen%2FQwen-Image-Edit-2511"])
def test_a_models_name_may_have_a_slash(serve: Serve, png: bytes, name: str) -> None:
    client = serve(MODEL_ID="Qwen/Qwen-Image-Edit-2511")
    (listed,) = client.get("/v1/models").json()["data"]
    assert client.get(f"/v1/models/{name}").json() == listed
    deployed = f"/openai/deployments/{name}/images/edits"
    assert client.post(deployed, data=PROMPT, files={"image": png}).status_code == 503
    assert 'route="/openai/deployments/{model}/images/edits",status="503"' in client.get("/metrics").text
    assert client.post(deployed, data=PROMPT).status_code == 400
    assert client.post("/openai/deployments/a%0Ab/images/edits", data=PROMPT).status_code == 400


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, deflate"])
def test_a_compressed_body_is_refused_by_its_coding(client: TestClient, png: bytes, coding: str) -> None:
    response = client.post(EDITS, data=PROMPT, files={"image": png}, headers={"content-encoding": coding})
    assert response.status_code == 415
    assert f"Content-Encoding {coding!r} is not taken" in response.text


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("x" * 128, True), ("x" * 129, False), ("", False), ("a b", False), ("a\xe9", False)],
    ids=["well formed", "longest", "too long", "empty", "space", "not ascii"],
)
@pytest.mark.parametrize("path", ["/health", "/nothing", EDITS])
def test_every_answer_has_a_request_id(client: TestClient, path: str, given: str, kept: bool) -> None:
    answered = client.get(path, headers=[(b"x-request-id", given.encode("latin-1"))]).headers["x-request-id"]
    assert answered == given if kept else re.fullmatch("[0-9a-f]{32}", answered)


def test_a_bug_is_logged_in_full_and_told_in_brief(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: object) -> None:
        raise ZeroDivisionError("the secret of the machine")

    assert isinstance(client.app, Starlette)
    client.app.router.routes.append(Route("/broken", broken))
    response = client.get("/broken", headers=SDK)
    assert openai_error(response) == (500, "INTERNAL_ERROR", None)
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-request-id"]
    assert "secret" not in response.text
    assert "the secret of the machine" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
def test_a_large_body_is_413(serve: Serve, declared: bool) -> None:
    body = b"--x\r\n" + b"y" * 2000
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = serve(MAX_BODY_BYTES="1000").post(EDITS, content=body if declared else iter([body]), headers=headers)
    assert classic_error(response) == (413, "PAYLOAD_TOO_LARGE")
    assert response.headers["x-request-id"]


FORM = {"content-type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhello\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        ({}, b"", "must be multipart/form-data or application/json, got 'no Content-Type'"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"prompt=x", "must be multipart/form-data"),
        ({"content-type": "multipart/form-data"}, PART, "Missing boundary"),
        (FORM, b"{}", "Invalid multipart data"),
        (FORM, PART.replace(b"name=", b"nome="), '"name" must be provided'),
        (FORM, PART[:-4], "ends before its closing boundary"),
        (FORM, PART[:40], "ends before its closing boundary"),
        (
            {"content-type": "multipart/form-data; boundary=x; charset=utf-7"},
            PART,
            "charset must be utf-8, got 'utf-7'",
        ),
        ({"content-type": "multipart/form-data; boundary=x; charset=UTF-8"}, PART, "Image is required"),
    ],
)
def test_a_malformed_body_is_400(client: TestClient, headers: dict[str, str], body: bytes, says: str) -> None:
    response = client.post(EDITS, content=body, headers=headers)
    assert classic_error(response) == (400, "INVALID_INPUT")
    assert says in response.json()["message"]


def test_a_json_body_is_an_edit_with_references(client: TestClient, png: bytes) -> None:
    image = {"image_url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}
    response = client.post(EDITS, json={**PROMPT, "images": [image, image], "mask": image, "n": None})
    assert openai_error(response) == (503, "MODEL_NOT_READY", None)
    response = client.post(EDITS, json={**PROMPT, "images": [image] * 17})
    assert openai_error(response) == (400, "INVALID_INPUT", "images")
    assert "images takes at most 16 references" in response.text


@pytest.mark.parametrize("name", ["url", "url[]"])
def test_an_address_is_a_reference(client: TestClient, png: bytes, name: str) -> None:
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    response = client.post(EDITS, data={**PROMPT, name: image}, files={"mask": png})
    assert openai_error(response) == (503, "MODEL_NOT_READY", None)
    response = client.post(EDITS, data={**PROMPT, name: image, "n": "11"}, files={"image": png})
    assert openai_error(response) == (400, "INVALID_INPUT", "n")
    response = client.post(EDITS, data={**PROMPT, name: [image, "https://a.example/b.png"]}, files={"mask": png})
    assert openai_error(response) == (400, "INVALID_INPUT", "url")
    assert "ALLOWED_IMAGE_HOSTS" in response.text
    response = client.post(EDITS, data={**PROMPT, name: image}, files={"images": png})
    assert classic_error(response) == (400, "INVALID_INPUT")
    assert "exclude each other" in response.text
    response = client.post(EDITS, data=PROMPT, files={name: png})
    assert openai_error(response) == (400, "INVALID_INPUT", "url")
    response = client.post(EDITS, data={**PROMPT, name: " "}, files={"mask": png})
    assert openai_error(response) == (400, "INVALID_INPUT", "image")


def test_an_allowed_host_on_a_private_address_is_refused(serve: Serve, png: bytes) -> None:
    client = serve(ALLOWED_IMAGE_HOSTS="localhost:9")
    address = "http://localhost:9/a.png"
    response = client.post(EDITS, data={**PROMPT, "url": address}, files={"mask": png})
    assert openai_error(response) == (400, "INVALID_INPUT", "url")
    assert "localhost has an address that is not public" in response.text
    response = client.post(EDITS, json={**PROMPT, "images": [{"image_url": address}]})
    assert openai_error(response) == (400, "INVALID_INPUT", "images")


def test_an_address_may_be_as_long_as_a_photograph_and_other_texts_may_not(client: TestClient) -> None:
    data = f"data:image/png;base64,{'AAAA' * 2**19}"
    response = client.post(EDITS, data={**PROMPT, "url": data}, files={"mask": b"x"})
    assert openai_error(response) == (400, "INVALID_INPUT", "url")
    assert "must be a PNG" in response.text
    response = client.post(EDITS, data={**PROMPT, "url": data, "user": data}, files={"mask": b"x"}, headers=SDK)
    assert "Part exceeded" in response.text


def test_too_many_parts_are_400(client: TestClient, png: bytes) -> None:
    response = client.post(EDITS, data={f"f{index}": "1" for index in range(300)}, files={"images": png})
    assert "Too many fields" in response.json()["message"]
    response = client.post(EDITS, data=PROMPT, files=[("other", png)] * 65)
    assert "Too many files" in response.json()["message"]


def test_texts_that_are_together_too_large_are_400(client: TestClient, png: bytes) -> None:
    fields = {f"f{index}": "x" * 2**20 for index in range(5)}
    response = client.post(EDITS, data={**PROMPT, **fields}, files={"images": png})
    assert classic_error(response) == (400, "INVALID_INPUT")
    assert "4194304 bytes together" in response.text


def test_a_node_buffer_gets_its_hint_although_it_is_too_many_parts(client: TestClient) -> None:
    fields = {**PROMPT, **{f"image[{index}]": "137" for index in range(300)}}
    response = client.post(EDITS, data=fields, files={"x": b""}, headers=SDK)
    assert openai_error(response) == (400, "INVALID_INPUT", "image")
    assert "toFile" in response.text


def test_a_huge_text_part_is_400_with_a_hint(client: TestClient, png: bytes) -> None:
    response = client.post(EDITS, data={"image": "A" * 2**20 + "A", **PROMPT}, files={"x": png}, headers=SDK)
    assert openai_error(response)[:2] == (400, "INVALID_INPUT")
    assert "filename" in response.text


def test_empty_file_parts_count_as_absent(client: TestClient, png: bytes) -> None:
    files: list[Any] = [("images", ("", b"")), ("mask", ("", b"")), ("image", ("", b""))]
    assert client.post(EDITS, data=PROMPT, files=files).json()["message"] == "Image is required"
    files = [("images", png), ("images", png), ("mask", ("", b""))]
    assert classic_error(client.post(EDITS, data=PROMPT, files=files)) == (503, "MODEL_NOT_READY")


def test_what_is_no_picture_is_400(client: TestClient, png: bytes) -> None:
    response = client.post(EDITS, data=PROMPT, files=[("images", png), ("images", b"text")])
    assert classic_error(response) == (400, "INVALID_INPUT")
    assert response.json()["message"].startswith("images (file 2) must be a PNG")
    response = client.post(EDITS, data=PROMPT, files=[("image", png), ("mask", b"text")])
    assert openai_error(response) == (400, "INVALID_INPUT", "mask")


def test_the_pixel_limit_is_the_settings(serve: Serve, png: bytes) -> None:
    response = serve(MAX_INPUT_PIXELS="3071").post(EDITS, data=PROMPT, files={"image": png})
    assert openai_error(response) == (400, "INVALID_INPUT", "image")
    assert "at most 3071 pixels, got 64x48" in response.text


def test_a_jpeg_may_have_twice_as_many_pixels(serve: Serve, png: bytes) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).save(file, "JPEG")
    taken = serve(MAX_INPUT_PIXELS="1536").post(EDITS, data=PROMPT, files={"image": file.getvalue()})
    assert taken.status_code == 503, "there is no Triton here"
    response = serve(MAX_INPUT_PIXELS="1535").post(EDITS, data=PROMPT, files={"image": file.getvalue()})
    assert openai_error(response) == (400, "INVALID_INPUT", "image")
    assert "at most 3070 pixels, got 64x48" in response.text


def test_refusals_are_logged_without_key_or_prompt(serve: Serve, png: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client = serve(API_KEY="hunter2")
    client.post(EDITS, data={**PROMPT, "n": "11"}, files={"image": png}, auth=("u", "hunter2"))
    client.post(EDITS, auth=("u", "hunter3"))
    client.get("/no%0awhere")
    lines = [record.getMessage() for record in caplog.records if record.name == "image_edit_server"]
    assert lines[0] == f"POST {EDITS}: 400 INVALID_INPUT: n must be an integer from 1 to 10, got '11'"
    assert lines[1] == f"POST {EDITS}: 401 UNAUTHORIZED: Invalid API key"
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)
    assert "hunter" not in caplog.text
    assert PROMPT["prompt"] not in caplog.text


def test_requests_are_counted(client: TestClient, png: bytes) -> None:
    client.get("/health")
    client.get("/nothing")
    client.post(EDITS, data={**PROMPT, "n": "0"}, files={"images": png})
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'shim_requests_total{dialect="classic",key="",route="/health",status="200"} 1.0' in response.text
    assert 'shim_requests_total{dialect="classic",key="",route="none",status="404"} 1.0' in response.text
    assert f'shim_requests_total{{dialect="classic",key="",route="{EDITS}",status="400"}} 1.0' in response.text
    assert f'shim_request_seconds_count{{route="{EDITS}",status="400",stream="false"}} 1.0' in response.text
    assert f'shim_build_info{{version="{VERSION}"}} 1.0' in response.text
    assert "_created" not in response.text
    assert "shim_edits_in_flight 0.0" in response.text
    assert re.search(r"shim_request_body_bytes_total [1-9]", response.text)


def test_whoever_keeps_a_connection_to_a_server_that_drains_is_told_to_take_another() -> None:
    drain = Drain(1.0)
    with TestClient(create_app(Settings(), drain)) as client:
        assert "connection" not in client.get("/health").headers
        drain.start()
        assert client.get("/health").headers["connection"] == "close"


def test_without_origins_there_is_no_cors(client: TestClient) -> None:
    response = client.options(EDITS, headers={"origin": "https://a.example", "access-control-request-method": "POST"})
    assert classic_error(response) == (405, "METHOD_NOT_ALLOWED")


def test_a_browser_page_of_an_allowed_origin_may_use_the_sdk(serve: Serve) -> None:
    client = serve(CORS_ORIGINS="https://a.example", API_KEY="secret")
    asked = {
        "origin": "https://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,api-key,content-type,x-stainless-retry-count,x-stainless-os",
    }
    preflight = client.options(EDITS, headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert preflight.headers["x-request-id"]
    refused = client.post(EDITS, headers={"origin": "https://a.example"})
    assert refused.status_code == 401
    assert "x-request-id" in refused.headers["access-control-expose-headers"]
    assert client.options(EDITS, headers={**asked, "origin": "https://b.example"}).status_code == 400
