"""Open WebUI, set up by its administrator to edit pictures with this server, its API and its page: make test-clients"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from playwright.async_api import async_playwright, expect

from tests.clients.conftest import Service
from tests.clients.real.chat_model import NAME, chat_model
from tests.kit.servers import Server, environment, free_ports, run
from tests.kit.wire import Tee, save

ADMINISTRATOR = {"name": "A", "email": "a@example.org", "password": "a-long-password"}
# It works without any network, and has no embeddings.
ALONE = {
    "OFFLINE_MODE": "true", "ENABLE_OLLAMA_API": "false", "RAG_EMBEDDING_MODEL": "",
    "ENABLE_VERSION_UPDATE_CHECK": "false", "ANONYMIZED_TELEMETRY": "false", "WEBUI_SECRET_KEY": "a-secret",
}  # fmt: skip
WAIT_MILLISECONDS = 60_000  # for what should come at once, on a machine that is busy

Call = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def web_ui(tool: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    (port,) = free_ports(1)
    command = [str(tool("open_webui", "bin", "open-webui")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    data = str(tmp_path_factory.mktemp("open_webui"))
    with chat_model() as url:
        env = environment(PYTHONPATH="", DATA_DIR=data, OPENAI_API_BASE_URL=url, OPENAI_API_KEY="none", **ALONE)
        with run(command, env, port) as web_ui:
            web_ui.wait_ready(600, "/health")
            yield web_ui


@pytest.fixture(scope="module")
def call(web_ui: Server, service: Service, front: Tee) -> Call:
    """Its API as the administrator, who has set the engine of image editing."""
    session = requests.Session()
    api = f"{web_ui.url}/api/v1"
    signed_up = session.post(f"{api}/auths/signup", json=ADMINISTRATOR, timeout=60).json()
    session.headers["Authorization"] = f"Bearer {signed_up['token']}"

    def call(path: str, **body: Any) -> requests.Response:
        return session.post(f"{api}{path}", json=body, timeout=240)

    config = session.get(f"{api}/images/config", timeout=60).json()
    config |= {
        "ENABLE_IMAGE_GENERATION": True,
        "ENABLE_IMAGE_EDIT": True,
        "IMAGE_EDIT_ENGINE": "openai",
        "IMAGE_EDIT_MODEL": "qwen-image-edit",
        "IMAGES_EDIT_OPENAI_API_BASE_URL": f"{front.url}/v1",
        "IMAGES_EDIT_OPENAI_API_KEY": service.key,
    }
    updated = call("/images/config/update", **config)
    assert updated.ok, updated.text
    return call


@pytest.fixture(scope="module")
def answers(call: Call, small: Path) -> dict[str, requests.Response]:
    photo = "data:image/jpeg;base64," + base64.b64encode((small / "photo.jpg").read_bytes()).decode()
    edit = partial(call, "/images/edit", prompt="make it a drawing")
    return {
        "one picture": edit(image=photo, size="64x64"),
        "two pictures, n=2": edit(image=[photo, photo], n=2, size="64x64"),
        "refused": edit(image=photo, size="12x12"),
    }


@pytest.mark.parametrize(("name", "pictures"), [("one picture", 1), ("two pictures, n=2", 2)])
def test_edits_are_kept_among_its_files(
    answers: dict[str, requests.Response], web_ui: Server, name: str, pictures: int
) -> None:
    kept = answers[name].json()
    assert len(kept) == pictures
    headers = {"Authorization": str(answers[name].request.headers["Authorization"])}
    for picture in kept:
        file = requests.get(f"{web_ui.url}{picture['url']}", headers=headers, timeout=60)
        assert Image.open(io.BytesIO(file.content)).size == (64, 64)


def test_of_a_refusal_it_shows_the_reason_phrase_alone(answers: dict[str, requests.Response]) -> None:
    refused = answers["refused"]
    assert refused.status_code == 400
    assert refused.json()["detail"] == "[ERROR: Bad Request]"


async def test_a_chat_in_its_page_edits_and_shows_the_picture(
    answers: dict[str, requests.Response], web_ui: Server, front: Tee, small: Path, program: Callable[[str], str]
) -> None:
    async with async_playwright() as playwright:
        arguments = ["--disable-dev-shm-usage"] + ["--no-sandbox"] * (os.geteuid() == 0)
        browser = await playwright.chromium.launch(executable_path=program("chromium"), args=arguments)
        page = await browser.new_page()
        page.set_default_timeout(WAIT_MILLISECONDS)
        await page.goto(f"{web_ui.url}/auth")
        await page.get_by_label("Email").fill(ADMINISTRATOR["email"])
        await page.get_by_role("textbox", name="Password").fill(ADMINISTRATOR["password"])
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("button", name="Okay, Let's Go!").click()
        await page.goto(f"{web_ui.url}/?models={NAME}&image-generation=true")
        await page.get_by_role("button", name="Image", exact=True).wait_for()
        await page.locator("input[type=file]").first.set_input_files(small / "photo.jpg")
        await page.locator("[data-cy=image], img[alt='photo.jpg']").first.wait_for()
        await page.locator("#chat-input").click()
        await page.keyboard.type("make it a drawing")
        await page.keyboard.press("Enter")
        shown = page.get_by_alt_text("generated-image.png")
        await expect(shown).to_have_js_property("naturalWidth", 64, timeout=WAIT_MILLISECONDS)
        await browser.close()
    save("open_webui", front.exchanges, *answers, "a chat")
