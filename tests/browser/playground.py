"""The page as its user has it, in a tab of a real browser."""

from __future__ import annotations

import base64
import io
import mimetypes
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.kit.servers import PROJECT

SCREENSHOTS = PROJECT / ".tools" / "screenshots"
EDIT_MILLISECONDS = 60_000
HARD_TO_USE = """async () => {
  const { violations } = await axe.run();
  return violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes[0].html}`);
}"""
OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
TRANSFER = """files => {
  const transfer = new DataTransfer();
  for (const { name, type, content } of files) {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  return transfer;
}"""
PASTE = "transfer => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }))"


@dataclass
class Playground:
    page: Page
    url: str
    problems: list[str] = field(default_factory=list)  # what no user should meet: warnings, errors, dialogs, strangers

    @classmethod
    async def open(cls, context: BrowserContext, url: str) -> Playground:
        page = await context.new_page()
        playground = cls(page, url)
        page.on("console", playground.note_message)
        page.on("pageerror", lambda error: playground.problems.append(f"exception: {error}"))
        page.on("dialog", lambda dialog: playground.problems.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: playground.note_request(request.url))
        await page.goto(url)
        await page.wait_for_selector("#model:not([hidden]), #key-section:not([hidden])")  # it knows its server
        return playground

    def note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("warning", "error"):
            self.problems.append(f"{message.type}: {message.text}")

    def note_request(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.problems.append(f"request: {url}")

    async def drop(self, *files: Path) -> None:
        transfer = await self.page.evaluate_handle(TRANSFER, [_packed(file) for file in files])
        for kind in ("dragover", "drop"):
            await self.page.dispatch_event("body", kind, {"dataTransfer": transfer})

    async def paste(self, *files: Path) -> None:
        transfer = await self.page.evaluate_handle(TRANSFER, [_packed(file) for file in files])
        await self.page.evaluate(PASTE, transfer)

    async def choose(self, *files: Path) -> None:
        await self.page.get_by_label(re.compile("(Choose|Add) pictures")).set_input_files(files)

    @property
    def thumbnails(self) -> Locator:
        return self.page.locator(".thumbnail")

    async def expect_pictures(self, *names: str) -> None:
        """The chosen ones, in order."""
        await expect(self.thumbnails).to_have_count(len(names))
        for index, name in enumerate(names):
            await expect(self.thumbnails.nth(index).locator("img").first).to_have_attribute("alt", name)

    async def say(self, prompt: str) -> None:
        await self.page.get_by_label("What should change?").fill(prompt)

    async def set(self, **fields: str | int) -> None:
        """By the name of their labels: `set(Steps=4, Seed=7)`."""
        await self.page.locator("#more").evaluate("details => { details.open = true; }")
        for label, value in fields.items():
            await self.page.get_by_label(label, exact=True).fill(str(value))

    async def set_size(self, width: int, height: int) -> None:
        await self.page.get_by_label("Size", exact=True).first.select_option("Other …")
        await self.set(Width=width, Height=height)

    async def start(self) -> None:
        await self.page.get_by_role("button", name="Edit", exact=True).click()

    async def edit(self, prompt: str) -> None:
        """Until the result is there."""
        await self.say(prompt)
        await self.start()
        await self.wait_for_the_end()

    async def wait_for_the_end(self) -> None:
        await expect(self.page.get_by_role("heading", name="As a command")).to_be_visible(timeout=EDIT_MILLISECONDS)

    @property
    def failure(self) -> Locator:
        return self.page.get_by_role("alert")

    @property
    def status(self) -> Locator:
        """What a screen reader hears."""
        return self.page.locator("#said")

    async def downloads(self) -> list[tuple[str, bytes]]:
        """(name, content) of every result's file, in the order of the page."""
        found = []
        for link in await self.page.get_by_role("link", name="Download").all():
            async with self.page.expect_download() as caught:
                await link.click()
            download = await caught.value
            found.append((download.suggested_filename, (await download.path()).read_bytes()))
        return found

    async def command(self) -> str:
        return await self.page.get_by_label("curl command").inner_text()

    async def screenshot(self, name: str) -> None:
        """The caret is left alone: to hide it, Playwright would add a style that the page's policy forbids."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, caret="initial")

    async def look(self, name: str, axe: str) -> None:
        """A screenshot, and what axe-core finds hard to use or is wider than the screen."""
        await self.screenshot(name)
        await self.page.evaluate(axe)
        assert await self.page.evaluate(HARD_TO_USE) == []
        assert await self.page.evaluate(OVERHANG) == 0

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    def forgive(self, *patterns: str) -> None:
        """Removes what a test provoked, each pattern at least once."""
        for pattern in patterns:
            matching = [problem for problem in self.problems if re.search(pattern, problem)]
            assert matching, f"the browser said nothing of {pattern!r}: {self.problems}"
            self.problems = [problem for problem in self.problems if problem not in matching]


def _packed(file: Path) -> dict[str, Any]:
    content = base64.b64encode(file.read_bytes()).decode()
    return {"name": file.name, "type": mimetypes.guess_type(file.name)[0] or "", "content": content}


def photographs(*names: str) -> list[Path]:
    """Of tests/data/."""
    return [PROJECT / "tests" / "data" / f"{name}.jpg" for name in names]


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def shapes(contents: Iterable[bytes]) -> list[tuple[str | None, tuple[int, int]]]:
    """(format, (width, height)) of picture files."""
    opened = [Image.open(io.BytesIO(content)) for content in contents]
    return [(picture.format, picture.size) for picture in opened]
