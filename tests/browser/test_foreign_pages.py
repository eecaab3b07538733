"""What a page of another site can make a visitor's browser do to a server without a key."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from playwright.async_api import Browser, Page

from tests.kit.servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOREIGN = "http://foreign.test/"
FIELDS = {"prompt": "make it grayscale", "size": "64x64", "steps": "2"}


async def open_form(browser: Browser, stack: Server, picture: bytes) -> Page:
    """A page of another site with a form that asks for an edit."""
    fields = {**FIELDS, "url": f"data:image/png;base64,{base64.b64encode(picture).decode()}"}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    form = f'<form action="{stack.url}/v1/images/edits" method="post" enctype="multipart/form-data">{inputs}</form>'
    page = await browser.new_page()
    await page.route(FOREIGN, lambda route: route.fulfill(content_type="text/html", body=form))
    await page.goto(FOREIGN)
    return page


async def test_a_form_on_a_foreign_page_makes_no_edit(
    stack: Server, browser: Browser, photo: Callable[[str], bytes]
) -> None:
    page = await open_form(browser, stack, photo("cat"))
    steps = stack.metric("qwen_edit_steps_total")
    async with page.expect_response(f"{stack.url}/**") as answered:
        await page.evaluate("document.forms[0].submit()")
    answer = await answered.value
    assert answer.status == 403
    assert (await answer.request.all_headers())["origin"] == FOREIGN.rstrip("/")
    assert stack.metric("qwen_edit_steps_total") == steps
    await page.close()
