"""curl, as in docs/api.md: forms, streams, JSON, chunked bodies."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Service

EDIT = ("-F", "prompt=make it a drawing", "-F", "size=64x64", "-F", "seed=7", "-F", "steps=4")
Curl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def curl(service: Service, folder: Path, program: Callable[[str], str]) -> Curl:
    def curl(*options: str) -> subprocess.CompletedProcess[str]:
        command = [program("curl"), "-sS", "--max-time", "60", "-H", f"Authorization: Bearer {service.key}", *options]
        url = f"{service.url}/v1/images/edits"
        return subprocess.run([*command, url], cwd=folder, capture_output=True, text=True, check=True)

    return curl


def picture(answered: subprocess.CompletedProcess[str]) -> str:
    answer = json.loads(answered.stdout)
    assert "data" in answer, answer
    return str(answer["data"][0]["b64_json"])


@pytest.fixture(scope="module")
def plain(curl: Curl) -> str:
    return picture(curl("-F", "image=@cat.jpg", *EDIT))


@pytest.mark.parametrize(
    "image", ["image[]=@cat.jpg", "image=@cat.jpg;type=application/octet-stream", "images=@cat.jpg"]
)
def test_a_form(curl: Curl, plain: str, image: str) -> None:
    assert picture(curl("-F", image, *EDIT)) == plain


def test_a_chunked_form(curl: Curl, plain: str) -> None:
    answered = curl("-v", "-H", "Transfer-Encoding: chunked", "-F", "image=@cat.jpg", *EDIT)
    assert "> Transfer-Encoding: chunked" in answered.stderr
    assert "> Content-Length" not in answered.stderr
    assert picture(answered) == plain


def test_a_client_that_waits_for_100_continue_is_told_to(curl: Curl, plain: str) -> None:
    answered = curl("-v", "-H", "Expect: 100-continue", "--expect100-timeout", "30", "-F", "image=@cat.jpg", *EDIT)
    assert "< HTTP/1.1 100 Continue" in answered.stderr
    assert picture(answered) == plain
    assert "< HTTP/1.1 100 Continue" not in curl("-v", "-H", "Expect:", "-F", "image=@cat.jpg", *EDIT).stderr


def test_a_data_url_in_a_form(curl: Curl, folder: Path, plain: str) -> None:
    """`base64 cat.jpg` wraps its lines."""
    encoded = base64.encodebytes((folder / "cat.jpg").read_bytes()).decode()
    (folder / "url.txt").write_text(f"data:image/jpeg;base64,{encoded}")
    assert picture(curl("-F", "url=<url.txt", *EDIT)) == plain


def test_json(curl: Curl, folder: Path, plain: str) -> None:
    encoded = base64.b64encode((folder / "cat.jpg").read_bytes()).decode()
    image = {"image_url": f"data:image/jpeg;base64,{encoded}"}
    body: dict[str, Any] = {"prompt": "make it a drawing", "size": "64x64", "seed": 7, "steps": 4, "images": [image]}
    (folder / "body.json").write_text(json.dumps(body))
    assert picture(curl("-H", "Content-Type: application/json", "--data-binary", "@body.json")) == plain


def test_a_stream(curl: Curl, plain: str) -> None:
    answered = curl("-N", "-i", "-F", "image=@cat.jpg", "-F", "stream=true", "-F", "partial_images=1", *EDIT)
    head, _, body = answered.stdout.replace("\r\n", "\n").partition("\n\n")
    assert "content-type: text/event-stream" in head
    frames = [frame for frame in body.split("\n\n") if frame and not frame.startswith(":")]
    events = [frame.split("\n") for frame in frames]
    assert [lines[0] for lines in events] == ["event: image_edit.partial_image", "event: image_edit.completed"]
    completed = json.loads(events[-1][1].removeprefix("data: "))
    assert completed["b64_json"] == plain
