"""Pictures are decoded to what a browser shows of them, on white, where the screen is sRGB."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from playwright.async_api import async_playwright

from tests.kit.coloured_pictures import PATCH, others, pngs
from tests.kit.decoding import decode

FILES = {**dict(pngs()), **dict(others())}
MEAN, WORST = 2.0, 8.0  # levels
EXCEPTIONS = {
    **{
        f"{container}, turned {orientation}": "Chromium turns JPEG alone; other viewers, and we, turn every container"
        for container in ("png", "WEBP")
        for orientation in range(2, 9)
    },
    "JPEG, CMYK, press": "between the five levels of its table LittleCMS and Chromium interpolate in different ways",
}

# Every patch's middle, of every picture, as a canvas has it.
LOOK = """async ([files, patch]) => Promise.all(files.map(async (file) => {
  const picture = new Image();
  picture.src = "data:;base64," + file;
  try { await picture.decode(); } catch { return null; }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  const context = canvas.getContext("2d", { colorSpace: "srgb", willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0);
  const rows = [];
  for (let y = patch / 2; y < canvas.height; y += patch) {
    const row = [];
    for (let x = patch / 2; x < canvas.width; x += patch) {
      row.push([...context.getImageData(x, y, 1, 1).data.slice(0, 3)]);
    }
    rows.push(row);
  }
  return rows;
}))"""


def ours(data: bytes) -> npt.NDArray[np.int64]:
    half = PATCH // 2
    return np.asarray(decode(data, 10**6)).astype(int)[half::PATCH, half::PATCH]


@pytest.mark.asyncio(loop_scope="session")
async def test_what_is_decoded_is_what_a_browser_shows(program: Callable[[str], str]) -> None:
    assert len(FILES) >= 300
    arguments = ["--disable-dev-shm-usage", "--force-color-profile=srgb"] + ["--no-sandbox"] * (os.geteuid() == 0)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program("chromium"), args=arguments)
        page = await browser.new_page()
        shown = await page.evaluate(LOOK, [[base64.b64encode(data).decode() for data in FILES.values()], PATCH])
        await browser.close()
    different = {}
    for (name, data), seen in zip(FILES.items(), shown, strict=True):
        found = ours(data)
        expected = np.array(seen)
        if found.shape != expected.shape:
            different[name] = f"{found.shape} instead of {expected.shape}"
            continue
        error = np.abs(found - expected)
        if error.mean() > MEAN or error.max() > WORST:
            different[name] = f"mean {error.mean():.1f}, worst {error.max()}"
    assert different.keys() == EXCEPTIONS.keys(), different
