"""The page in the languages that it has; tests/shim/test_page_words.py compares them word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, Visit
from tests.browser.playground import EDIT_MILLISECONDS, photographs, shapes
from tests.kit.servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

VIEWPORTS = {"desktop": DESKTOP, "phone": PHONE}
NAMES = {"Qwen", "qwen", "Image", "image", "Edit", "edit", "API", "PNG", "JPEG", "WebP", "Ctrl", "Enter", "curl"}
FILES = {"cat", "coffee", "rocket", "edited", "mask", "jpg", "png"}
SPOKEN = """() => {
  const shown = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility());
  const names = shown.flatMap((element) => [element.ariaLabel, element.alt, element.title, element.placeholder]);
  const untold = [...document.querySelectorAll("#model, #curl")].map((element) => element.innerText);
  return names.concat(untold.reduce((text, part) => text.replace(part, ""), document.body.innerText)).join(" ");
}"""


async def english_words(page: Page) -> set[str]:
    """What is seen or heard of the page in Latin letters, beside names."""
    return set(re.findall("[A-Za-z]{2,}", await page.evaluate(SPOKEN))) - NAMES - FILES


@pytest.mark.parametrize("look", VIEWPORTS)
async def test_a_chinese_browser_gets_a_page_that_is_chinese_all_through(
    stack: Server, visit: Visit, axe: str, look: str, tmp_path: Path
) -> None:
    playground = await visit(stack.url, locale="zh-CN", reduced_motion="reduce", viewport=VIEWPORTS[look])
    page = playground.page

    async def look_at(what: str) -> None:
        await playground.look(f"chinese-{look}-{what}", axe)
        assert await english_words(page) == set()

    await expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    await page.get_by_text("更多设置").click()
    await page.get_by_label("尺寸").select_option("自定义…")
    await look_at("empty")
    await page.get_by_role("button", name="开始编辑").click()
    await expect(page.get_by_text("请至少选择一张图片。")).to_be_visible()
    await page.get_by_label("选择图片").set_input_files(photographs("cat"))
    await page.get_by_role("button", name="绘制蒙版").click()
    await page.get_by_text("按数值添加矩形").click()
    await page.get_by_role("button", name="添加", exact=True).click()
    await look_at("mask")
    await page.get_by_role("button", name="使用蒙版").click()
    await page.get_by_label("提示词", exact=True).fill("把天空变成绿色")
    await page.get_by_label("宽度", exact=True).fill("96")
    await page.get_by_label("高度", exact=True).fill("64")
    await page.get_by_label("步数").fill("4")
    await page.get_by_role("button", name="开始编辑").click()
    await expect(page.get_by_role("heading", name="命令行")).to_be_visible(timeout=EDIT_MILLISECONDS)
    await expect(playground.status).to_have_text(re.compile(r"已完成，用时 \d+ 秒，共 1 张图片。"))
    await look_at("result")
    async with page.expect_download() as caught:
        await page.get_by_role("link", name="下载").click()
    assert shapes([(await (await caught.value).path()).read_bytes()]) == [("PNG", (96, 64))]
    await page.get_by_label("添加图片").set_input_files(photographs("coffee", "rocket"))
    await page.get_by_role("radio", name="逐张编辑").check()
    await page.get_by_label("生成数量").fill("10")
    await page.get_by_role("button", name="开始编辑").click()
    await expect(playground.failure).to_contain_text("服务器不接受此次编辑")
    await expect(playground.failure).to_contain_text("30 outputs were asked for, at most 16 are allowed")
    await expect(playground.failure).to_contain_text("请检查生成数量。")
    await playground.screenshot("chinese-refusal")
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(photographs("cat")[0].read_bytes()[:3000])
    await page.get_by_label("添加图片").set_input_files(damaged)
    await page.get_by_role("radio", name="多图参考").check()
    await page.get_by_role("button", name="开始编辑").click()
    await expect(playground.failure).to_contain_text("请检查图片。服务器的说明：image")
    playground.forgive("status of 400")


@pytest.mark.parametrize(
    ("wanted", "language"),
    [
        (["en-GB", "zh-CN"], "en"),
        (["zh-TW", "en"], "zh-CN"),
        (["de-DE", "zh", "en"], "zh-CN"),
        (["de-DE", "fr"], "en"),
        ([], "en"),
    ],
)
async def test_the_first_language_that_the_page_has_is_taken(
    stack: Server, visit: Visit, wanted: list[str], language: str
) -> None:
    playground = await visit(stack.url)
    languages = f"Object.defineProperty(navigator, 'languages', {{ value: {json.dumps(wanted)} }})"
    await playground.page.add_init_script(languages)
    await playground.page.reload()
    title = {"en": "Pictures", "zh-CN": "图片"}[language]
    await expect(playground.page.locator("html")).to_have_attribute("lang", language)
    await expect(playground.page.get_by_role("heading", name=title, exact=True)).to_be_visible()
