"""Every row of the HTTP contract's error table, provoked on real parts in both dialects."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import requests
import tritonclient.grpc
from PIL import Image

from shim.errors import ANSWERS, ClientGone
from tests.kit.answers import pictures
from tests.kit.servers import Server, free_ports, serve_shim

KEY = "the-key"
MAX_BODY_BYTES = 4 * 2**20
Dialect = Literal["classic", "openai"]
Photo = Callable[[str], bytes]


class Caller:
    """Speaks one dialect."""

    def __init__(self, dialect: Dialect, photo: Photo) -> None:
        self.dialect = dialect
        self.headers = {"x-stainless-lang": "python"} if dialect == "openai" else {}
        self.photo = photo

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        headers = self.headers | options.pop("headers", {})
        return requests.request(method, url, headers=headers, timeout=60, **options)

    def edit(self, server: Server, picture: bytes | None = None, **fields: str | int) -> requests.Response:
        name = "image[]" if self.dialect == "openai" else "images"
        fields = {"prompt": "make it blue", "size": "64x64", **fields}
        files = {name: picture or self.photo("cat")}
        headers = {"api-key": KEY} if self.dialect == "openai" else {}
        auth = None if headers else ("anyone", KEY)
        url = f"{server.url}/v1/images/edits"
        return self.request("POST", url, data=fields, files=files, headers=headers, auth=auth)


@pytest.fixture(params=["classic", "openai"])
def caller(request: pytest.FixtureRequest, photo: Photo) -> Caller:
    return Caller(request.param, photo)


@pytest.fixture(scope="module")
def strict(stack: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A shim with a key, a small body limit, one second for an edit, and a folder of its own for temporary files."""
    with serve_shim(
        f"http://{stack.triton_http}",
        API_KEY=KEY,
        MAX_BODY_BYTES=str(MAX_BODY_BYTES),
        REQUEST_TIMEOUT_SECONDS="1",
        TMPDIR=str(tmp_path_factory.mktemp("temporary")),
    ) as shim:
        yield shim


def refusal(response: requests.Response, caller: Caller) -> tuple[int, str]:
    """Status and code of an error answer, whose shape is the dialect's."""
    body = response.json()
    assert response.headers["x-request-id"]
    if caller.dialect == "classic":
        assert body.keys() == {"error", "message"}
        code, message = body["error"], body["message"]
    else:
        assert body["error"].keys() == {"message", "type", "param", "code"}
        code, message = body["error"]["code"], body["error"]["message"]
        assert isinstance(body["error"]["type"], str)
    assert message
    assert not {"/", "Traceback"} & set(message.split())
    return response.status_code, code


def may_be_retried(response: requests.Response) -> bool:
    """As OpenAI's SDKs decide it."""
    return response.headers.get("x-should-retry") != "false" and "retry-after" in response.headers


def test_a_bad_field_is_invalid_input_400(stack: Server, caller: Caller) -> None:
    response = caller.edit(stack, size="12x12")
    assert refusal(response, caller) == (400, "INVALID_INPUT")
    assert "12x12" in response.text
    if caller.dialect == "openai":
        assert response.json()["error"]["param"] == "size"


def test_what_only_the_model_can_refuse_is_invalid_input_400_with_the_clients_field_name(
    stack: Server, caller: Caller
) -> None:
    response = caller.edit(stack, prompt="qz " * 9000)
    assert refusal(response, caller) == (400, "INVALID_INPUT")
    damaged = caller.photo("cat")[:2000]
    response = caller.edit(stack, damaged)
    assert refusal(response, caller) == (400, "INVALID_INPUT")
    if caller.dialect == "openai":
        assert response.json()["error"]["param"] == "image"


def test_a_missing_or_wrong_key_is_unauthorized_401(strict: Server, caller: Caller) -> None:
    wrong = {"api-key": "wrong"} if caller.dialect == "openai" else {"authorization": "Basic dTp3cm9uZw=="}
    for headers in ({}, wrong, {"authorization": "Basic ?"}):
        for method, path in (("POST", "/v1/images/edits"), ("GET", "/v1/models")):
            response = caller.request(method, f"{strict.url}{path}", headers=headers)
            asked_as = caller if path.endswith("edits") else Caller("openai", caller.photo)  # whoever asks for models
            assert refusal(response, asked_as) == (401, "UNAUTHORIZED")
            assert response.headers["www-authenticate"].startswith("Basic realm=")


def test_a_page_of_another_origin_is_forbidden_403(stack: Server, caller: Caller) -> None:
    response = caller.request("POST", f"{stack.url}/v1/images/edits", headers={"origin": "https://elsewhere.example"})
    assert refusal(response, caller) == (403, "FORBIDDEN")
    assert not may_be_retried(response)


def test_an_unknown_path_is_not_found_404(stack: Server, caller: Caller) -> None:
    error = caller.request("GET", f"{stack.url}/v1/nothing").json()["error"]
    assert (error["code"], error["param"]) == ("NOT_FOUND", None)
    assert "pictures are edited by POST /v1/images/edits" in error["message"]


def test_a_wrong_method_is_method_not_allowed_405(stack: Server, caller: Caller) -> None:
    response = caller.request("GET", f"{stack.url}/v1/images/edits")
    assert refusal(response, caller) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in response.headers["allow"]


def test_another_model_is_model_not_found_404(stack: Server, caller: Caller) -> None:
    response = caller.request("GET", f"{stack.url}/v1/models/another")
    assert refusal(response, Caller("openai", caller.photo)) == (404, "model_not_found")
    assert not may_be_retried(response)


def test_a_compressed_body_is_unsupported_media_type_415(stack: Server, caller: Caller) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x", "content-encoding": "gzip"}
    response = caller.request("POST", f"{stack.url}/v1/images/edits", data=b"x", headers=headers)
    assert refusal(response, caller) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert not may_be_retried(response)


def test_a_large_body_is_payload_too_large_413(strict: Server, caller: Caller) -> None:
    response = caller.edit(strict, b"x" * MAX_BODY_BYTES)
    assert refusal(response, caller) == (413, "PAYLOAD_TOO_LARGE")


def test_a_body_that_grows_too_large_while_it_streams_is_413(strict: Server, caller: Caller) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x", "api-key": KEY} | caller.headers
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    chunks = (chunk for chunk in [head, *[b"y" * 2**18] * 17])
    response = requests.post(f"{strict.url}/v1/images/edits", data=chunks, headers=headers, timeout=60)
    assert response.status_code == 413


def test_a_body_that_stops_coming_is_a_body_timeout_408_and_may_not_be_retried(stack: Server, caller: Caller) -> None:
    head = ["POST /v1/images/edits HTTP/1.1", "host: x", "content-type: multipart/form-data; boundary=x"]
    head += [f"{name}: {value}" for name, value in caller.headers.items()]
    request = "\r\n".join([*head, "content-length: 100", "", "--x\r\n"])
    with (
        serve_shim(f"http://{stack.triton_http}", BODY_TIMEOUT_SECONDS="1") as shim,
        socket.create_connection(("127.0.0.1", shim.port), timeout=10) as stalled,
    ):
        stalled.sendall(request.encode())
        answer = http.client.HTTPResponse(stalled)
        answer.begin()
        body = json.loads(answer.read())
    assert (answer.status, answer.headers["x-should-retry"]) == (408, "false")
    assert (body if caller.dialect == "classic" else body["error"])["message"].startswith("The request body came too s")


@contextmanager
def occupied(server: Server, picture: bytes, begin: Callable[..., tuple[Any, list[Any]]]) -> Iterator[None]:
    """A long edit is running on the server's Triton meanwhile."""
    with tritonclient.grpc.InferenceServerClient(server.triton_grpc) as client:
        inputs = {"image": picture, "prompt": b"x", "size": [512, 512], "num_inference_steps": 100}
        call, outcomes = begin(client, **inputs)
        server.wait_for(lambda: server.metric("qwen_edit_jobs", state="running") == 1)
        try:
            yield
            assert not outcomes, "the long edit ended too early"
        finally:
            call.cancel()
            server.wait_for(lambda: server.metric("qwen_edit_jobs") == 0)


def test_a_full_server_is_queue_full_429_and_may_be_retried(
    crowded: Server, caller: Caller, begin: Callable[..., tuple[Any, list[Any]]]
) -> None:
    with occupied(crowded, caller.photo("cat"), begin):
        response = caller.edit(crowded, n=2)
        assert requests.get(f"{crowded.url}/ready", timeout=10).status_code == 200
    assert refusal(response, caller) == (429, "QUEUE_FULL")
    assert may_be_retried(response)
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert caller.edit(crowded).status_code == 200


def test_a_model_that_fails_is_a_generation_error_500(crowded: Server, caller: Caller, poisoned_word: str) -> None:
    failed = crowded.metric("qwen_edit_edits_total", outcome="failed")
    response = caller.edit(crowded, prompt=f"make it a {poisoned_word}")
    assert refusal(response, caller) == (500, "GENERATION_ERROR")
    assert not may_be_retried(response)
    assert "NaN" in response.text
    assert crowded.metric("qwen_edit_edits_total", outcome="failed") == failed + 1
    assert caller.edit(crowded).status_code == 200


def test_an_edit_that_takes_too_long_is_a_generation_timeout_504(stack: Server, strict: Server, caller: Caller) -> None:
    response = caller.edit(strict, steps=100, size="256x256", n=10)
    assert refusal(response, caller) == (504, "GENERATION_TIMEOUT")
    assert not may_be_retried(response)
    stack.wait_for(lambda: stack.metric("qwen_edit_jobs") == 0, seconds=60)


def test_a_triton_that_is_away_is_model_not_ready_503(caller: Caller) -> None:
    (nobody,) = free_ports(1)
    with serve_shim(f"http://127.0.0.1:{nobody}", wait_for="/health") as shim:
        response = caller.edit(shim)
    assert refusal(response, caller) == (503, "MODEL_NOT_READY")
    assert may_be_retried(response)


def test_a_disk_that_is_gone_is_an_internal_error_500_told_in_brief(
    stack: Server, caller: Caller, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(caller.photo("cat"))) as picture:
        picture.resize((700, 700)).save(buffer, "BMP")  # more than the megabyte that is kept in memory
    folder = tmp_path / "temporary"
    folder.mkdir()
    with serve_shim(f"http://{stack.triton_http}", TMPDIR=str(folder)) as shim:
        assert caller.edit(shim, buffer.getvalue()).status_code == 200
        shutil.rmtree(folder)
        response = caller.edit(shim, buffer.getvalue())
        log = shim.log
    assert refusal(response, caller) == (500, "INTERNAL_ERROR")
    assert not may_be_retried(response)
    assert str(folder) not in response.text
    assert str(folder) in log
    assert response.headers["x-request-id"]


def test_no_row_of_the_table_is_left_out() -> None:
    """Each row has a test above whose name carries its code and status."""
    rows = {f"{answer.code.lower()}_{answer.status}" for kind, answer in ANSWERS.items() if kind is not ClientGone}
    names = [name for name in globals() if name.startswith("test_")]
    assert {row for row in rows if not any(row in name for name in names)} == set()


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(alone: Server, caller: Caller) -> None:
    first, again, other = (caller.edit(alone, seed=seed).json() for seed in (11, 11, 12))
    assert first["data"] == again["data"]
    assert first["data"][0]["seed"] == 11
    assert first["data"][0]["b64_json"] != other["data"][0]["b64_json"]


def test_a_seed_that_was_not_given_is_told_and_repeats_the_picture(alone: Server, caller: Caller) -> None:
    drawn = caller.edit(alone).json()
    again = caller.edit(alone, seed=drawn["data"][0]["seed"]).json()
    assert drawn["data"] == again["data"]
    assert pictures(drawn)[0].shape == (64, 64, 3)
    assert abs(drawn["created"] - time.time()) < 60
