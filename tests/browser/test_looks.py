"""Who sees little, has a small screen, or no mouse: axe-core's findings, widths, and a way without a pointer.

The screenshots are in .tools/screenshots/, to be looked at.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import expect

from tests.browser.conftest import DESKTOP, PHONE, Visit
from tests.browser.playground import Playground, photographs
from tests.kit.servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESKTOP, "color_scheme": "light"},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "is_mobile": True, "has_touch": True, "device_scale_factor": 2},
}


@pytest.mark.parametrize("look", LOOKS)
async def test_nothing_is_hard_to_use_or_wider_than_the_screen(
    stack: Server, visit: Visit, axe: str, look: str
) -> None:
    playground = await visit(stack.url, reduced_motion="reduce", **LOOKS[look])
    page = playground.page

    async def look_at(what: str) -> None:
        await playground.look(f"{look}-{what}", axe)

    await look_at("empty")
    await playground.choose(*photographs("coffee"))
    await page.get_by_role("button", name="Paint a mask").click()
    await page.get_by_text("Rectangle by coordinates").click()
    await page.get_by_role("button", name="Add", exact=True).click()
    await look_at("mask")
    await page.get_by_role("button", name="Use mask").click()
    await playground.set(Steps=4)
    await playground.edit("make the sky green")
    await look_at("result")
    await playground.choose(*photographs("cat", "rocket"))
    await page.get_by_role("radio", name="Each on its own").check()
    await playground.set(Variants=2)
    await playground.edit("make the sky green")
    await look_at("batch")
    await playground.set(Variants=10)
    await playground.start()
    await expect(playground.failure).to_contain_text("at most 16 are allowed")
    await look_at("refusal")
    playground.forgive("status of 400")


async def test_the_whole_way_goes_without_a_pointer(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url)
    async with playground.page.expect_file_chooser() as caught:
        await reach(playground, "files")
        await playground.press("Enter")
    await (await caught.value).set_files(photographs("cat"))
    await expect(playground.thumbnails).to_have_count(1)
    await reach(playground, "prompt")
    await playground.page.keyboard.type("make the sky green")
    await reach(playground, "run")
    await playground.press("Enter")
    await playground.wait_for_the_end()
    async with playground.page.expect_download() as downloaded:
        await reach(playground, "download")
        await playground.press("Enter")
    assert (await downloaded.value).suggested_filename == "cat-edited-1.png"


async def reach(playground: Playground, name: str) -> None:
    """With the Tab key alone, by id or by what it does."""
    focused = playground.page.locator(f":is(#{name}, [data-do={name}]):focus-visible")
    for _ in range(30):
        await playground.press("Tab")
        if await focused.count():
            return
    raise AssertionError(f"the Tab key does not lead to {name}")


async def test_control_and_enter_run_the_edit(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url)
    await playground.choose(*photographs("cat"))
    await playground.say("make the sky green")
    await playground.page.get_by_label("What should change?").press("Control+Enter")
    await playground.wait_for_the_end()
