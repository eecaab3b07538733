"""Where the model makes pictures of a prompt alone, the page does without a picture."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Visit
from tests.browser.playground import photographs, shapes
from tests.kit.servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_picture_is_made_of_the_prompt_alone_and_then_edited(stack21: Server, visit: Visit, axe: str) -> None:
    playground = await visit(stack21.url)
    page = playground.page
    await expect(page.get_by_text("Without a picture, one is made of the prompt alone.")).to_be_visible()
    await page.get_by_label("What should be in the picture?").fill("a red kite")
    await page.get_by_role("button", name="Make it").click()
    await playground.wait_for_the_end()
    ((name, content),) = await playground.downloads()
    assert (name, shapes([content])) == ("picture-1.png", [("PNG", (64, 64))])
    assert f"{stack21.url}/v1/images/generations" in await playground.command()
    assert "-F size=auto" in await playground.command()
    await expect(page.get_by_role("img", name="Made of “a red kite”")).to_be_visible()
    await expect(page.get_by_role("slider")).to_have_count(0)
    await playground.look("from-a-prompt", axe)
    await playground.choose(*photographs("cat"))
    await expect(page.get_by_text("Without a picture, one is made of the prompt alone.")).to_be_hidden()
    await playground.edit("make the sky green")
    assert f"{stack21.url}/v1/images/edits" in await playground.command()
    await expect(page.get_by_role("slider")).to_have_count(1)
