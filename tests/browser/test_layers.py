"""A checkpoint that takes pictures apart: the page shows a stack of layers, to be hidden, dragged apart and saved."""

from __future__ import annotations

import io
import zipfile

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Visit
from tests.browser.playground import photographs, shapes
from tests.kit.servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_layers_can_be_hidden_dragged_apart_and_saved_as_a_zip(layered: Server, visit: Visit, axe: str) -> None:
    playground = await visit(layered.url)
    page = playground.page
    await expect(page.get_by_label("Size", exact=True).first).to_be_hidden()
    await playground.choose(*photographs("cat"))
    await page.get_by_label("Layers", exact=True).first.fill("3")
    await page.get_by_label("Resolution").select_option("1024")
    await page.get_by_role("button", name="Take apart").click()
    await playground.wait_for_the_end()
    assert "-F layers=3" in await playground.command()
    layers = page.locator(".layers img")
    await expect(layers).to_have_count(3)
    await page.get_by_role("checkbox", name="Layer 2").uncheck()
    await expect(layers.nth(1)).to_be_hidden()
    before = await layers.nth(2).bounding_box()
    assert before
    await page.mouse.move(before["x"] + 20, before["y"] + 20)
    await page.mouse.down()
    await page.mouse.move(before["x"] + 50, before["y"] + 60)
    await page.mouse.up()
    dragged = await layers.nth(2).bounding_box()
    assert dragged
    assert (round(dragged["x"] - before["x"]), round(dragged["y"] - before["y"])) == (30, 40)
    await page.get_by_label("Apart").fill("100")
    apart = [await layers.nth(number).bounding_box() for number in (0, 2)]
    assert apart[0]
    assert apart[1]
    assert apart[0]["x"] < apart[1]["x"]
    async with page.expect_download() as caught:
        await page.get_by_role("link", name="Save as ZIP").click()
    download = await caught.value
    with zipfile.ZipFile(io.BytesIO((await download.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        kinds = shapes(archive.read(name) for name in names)
    assert (download.suggested_filename, names) == (
        "cat-layers.zip", [f"cat-layers-{number}.png" for number in (1, 2, 3)],
    )  # fmt: skip
    assert len(set(kinds)) == 1
    await playground.look("layers", axe)
