"""What goes wrong is said in words, and never hangs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as tritonclient
from playwright.async_api import Browser, expect

from tests.browser.conftest import Visit
from tests.browser.playground import Playground, photographs
from tests.kit.servers import Server, serve_shim
from tests.kit.tensors import MODEL, inputs

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "schlüssel-€"
BROKEN = r"error: Failed to load resource: net::ERR_\w+"


@pytest.fixture(scope="module")
def locked(stack: Server) -> Iterator[Server]:
    with serve_shim(f"http://{stack.triton_http}", API_KEY=KEY) as shim:
        yield shim


async def begin(playground: Playground) -> None:
    await playground.choose(*photographs("cat"))
    await playground.say("make the sky green")
    await playground.start()


async def begin_long(playground: Playground) -> None:
    await playground.set_size(640, 640)
    await playground.set(Steps=100)
    await begin(playground)


async def test_a_wrong_key_is_asked_for_again_and_a_right_one_kept_in_the_tab(locked: Server, visit: Visit) -> None:
    playground = await visit(locked.url)
    page, key = playground.page, playground.page.get_by_label("API key")
    await expect(key).to_be_visible()
    await begin(playground)
    await expect(playground.failure).to_contain_text("The API key is missing or wrong")
    await expect(page.get_by_text("The server asks for a key.")).to_be_visible()
    await expect(key).to_be_focused()
    await key.fill("wrong")
    await playground.start()
    await expect(page.get_by_text("The server does not know this key.")).to_be_visible()
    await playground.screenshot("wrong-key")
    await key.fill(KEY)
    await playground.start()
    await playground.wait_for_the_end()
    await expect(playground.failure).to_be_hidden()
    await expect(page.locator("#model")).to_have_text("qwen-image-edit")
    command = await playground.command()
    assert '-H "Authorization: Bearer $API_KEY"' in command
    assert KEY not in command
    await page.reload()
    await expect(key).to_have_value(KEY)
    assert await page.evaluate("localStorage.length") == 0
    other = await page.context.new_page()
    await other.goto(locked.url)
    await expect(other.get_by_label("API key")).to_have_value("")
    playground.forgive("status of 401")


async def test_no_password_box_opens_on_a_401(locked: Server, browser: Browser) -> None:
    """The browser tells when it would open one; it does for a fetch with credentials, which shows that it is heard."""
    page = await browser.new_page()
    asked: list[str] = []
    devtools = await page.context.new_cdp_session(page)

    async def go_on(event: dict[str, Any]) -> None:
        await devtools.send("Fetch.continueRequest", {"requestId": event["requestId"]})

    async def open_box(event: dict[str, Any]) -> None:
        asked.append(event["request"]["url"])
        closed = {"requestId": event["requestId"], "authChallengeResponse": {"response": "CancelAuth"}}
        await devtools.send("Fetch.continueWithAuth", closed)

    devtools.on("Fetch.requestPaused", go_on)
    devtools.on("Fetch.authRequired", open_box)
    await devtools.send("Fetch.enable", {"handleAuthRequests": True})
    playground = Playground(page, locked.url)
    await page.goto(locked.url)
    await begin(playground)
    await expect(playground.failure).to_contain_text("The API key is missing or wrong")
    assert asked == []
    assert await page.evaluate("fetch('v1/models').then(({ status }) => status)") == 401
    assert asked == [f"{locked.url}/v1/models"]
    await page.close()


async def test_a_full_queue_says_when_to_try_again(crowded: Server, visit: Visit) -> None:
    playground = await visit(crowded.url)
    with held(crowded):
        await begin(playground)
        await expect(playground.failure).to_contain_text("The server is busy")
        await expect(playground.failure).to_contain_text(re.compile(r"Try again in \d+ seconds?\."))
    playground.forgive("status of 429")
    await expect(playground.page.get_by_role("button", name="Edit", exact=True)).to_be_enabled()


@contextlib.contextmanager
def held(server: Server) -> Iterator[None]:
    """While the server's only place is taken."""
    photo = photographs("coffee")[0].read_bytes()
    edit = inputs(tritonclient, image=photo, prompt=b"x", size=[512, 512], num_inference_steps=100)
    with tritonclient.InferenceServerClient(server.triton_grpc) as client:
        call = client.async_infer(MODEL, edit, lambda result, error: None)
        server.wait_for(lambda: server.metric("qwen_edit_jobs") == 1)
        try:
            yield
        finally:
            call.cancel()
            server.wait_for(lambda: server.metric("qwen_edit_jobs") == 0)


async def test_a_failure_in_mid_stream_is_told_too(stack: Server, visit: Visit) -> None:
    with serve_shim(f"http://{stack.triton_http}", REQUEST_TIMEOUT_SECONDS="1") as shim:
        playground = await visit(shim.url)
        await begin_long(playground)
        await expect(playground.failure).to_contain_text("The edit took too long")
        await expect(playground.page.get_by_role("progressbar")).to_be_hidden()


async def test_a_server_that_dies_in_mid_edit_ends_the_edit(stack: Server, visit: Visit) -> None:
    with serve_shim(f"http://{stack.triton_http}") as shim:
        playground = await visit(shim.url)
        await begin_long(playground)
        await expect(playground.page.locator("#progress-text")).to_have_text(re.compile(r"Step \d+ of 100"))
        shim.process.kill()
        shim.process.wait()
        await expect(playground.failure).to_contain_text("The connection broke off")
        await expect(playground.page.get_by_role("progressbar")).to_be_hidden()
        playground.forgive(BROKEN)
        await playground.start()
        await expect(playground.failure).to_contain_text("The server cannot be reached")
        playground.forgive(BROKEN)
        await playground.screenshot("unreachable")


async def test_what_the_server_refuses_is_told_in_its_words(stack: Server, visit: Visit, tmp_path: Path) -> None:
    """In both shapes: the classic one of a batch, and OpenAI's."""
    playground = await visit(stack.url)
    await playground.choose(*photographs("cat", "coffee", "rocket"))
    await playground.page.get_by_role("radio", name="Each on its own").check()
    await playground.set(Variants=10)
    await playground.say("make the sky green")
    await playground.start()
    await expect(playground.failure).to_contain_text("30 outputs were asked for, at most 16 are allowed")
    await expect(playground.failure).to_contain_text(re.compile("Request [0-9a-f]{32}"))
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(photographs("cat")[0].read_bytes()[:3000])
    await playground.choose(damaged)
    await playground.page.get_by_role("radio", name="Together").check()
    await playground.start()
    await expect(playground.failure).to_contain_text("takes at most 3 references")
    for name in ("cat", "coffee", "rocket"):
        await playground.page.get_by_role("button", name=f"Remove {name}.jpg").click()
    await playground.set(Variants=1)
    await playground.start()
    await expect(playground.failure).to_contain_text("image")
    playground.forgive("status of 400")
