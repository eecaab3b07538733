"""Debian's Chromium without a window, one for the session, and a tab of its own for each test.

Playwright's asynchronous interface is used, on one loop for the session: the other one occupies the main thread's loop
as long as the browser lives, and no asynchronous test could run beside it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from tests.browser.playground import Playground

Visit = Callable[..., Awaitable[Playground]]
WAIT_MILLISECONDS = 20_000  # for what should come at once, on a machine that is busy
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}

expect.set_options(timeout=WAIT_MILLISECONDS)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(program: Callable[[str], str]) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Chromium's sandbox does not start for root, and a container's /dev/shm is too small for it.
        arguments = ["--disable-dev-shm-usage"] + ["--no-sandbox"] * (os.geteuid() == 0)
        launched = await playwright.chromium.launch(executable_path=program("chromium"), args=arguments)
        yield launched
        await launched.close()


@pytest.fixture
def axe(tool: Callable[..., Path]) -> str:
    return tool("axe", "node_modules", "axe-core", "axe.min.js").read_text()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser) -> AsyncIterator[Visit]:
    """Opens a server's page: `await visit(url)`. A warning or an error that the test does not forgive fails it."""
    opened: list[Playground] = []
    async with AsyncExitStack() as contexts:

        async def visit(url: str, **options: Any) -> Playground:
            context = await browser.new_context(**({"viewport": DESKTOP} | options))
            contexts.push_async_callback(context.close)
            context.set_default_timeout(WAIT_MILLISECONDS)
            opened.append(await Playground.open(context, url))
            return opened[-1]

        yield visit
        problems = [problem for playground in opened for problem in playground.problems]
    assert problems == []
