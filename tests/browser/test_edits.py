"""From a picture to its edit, on the page, against the running stack."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image, ImageFilter
from playwright.async_api import expect

from tests.browser.conftest import Visit
from tests.browser.playground import Playground, photographs, pixels, shapes
from tests.kit.answers import grey_levels, pictures
from tests.kit.servers import Server, environment, serve_shim

pytestmark = pytest.mark.asyncio(loop_scope="session")

SIDE = 64  # of the squares that masks are painted on: the stack's own size, so that a result has their very pixels
FEATHER_PIXELS = 4  # half a latent cell of the stack's checkpoint
ROUNDING = 1  # grey levels between an edit alone and the same edit in company
LONG = {"Steps": 100, "Seed": 3}

Curl = Callable[[str, Path], list[bytes]]


@pytest.fixture
def square(tmp_path: Path) -> Path:
    """The middle of a photograph, without loss."""
    path = tmp_path / "square.png"
    with Image.open(photographs("cat")[0]) as cat:
        cat.crop((100, 50, 300, 250)).resize((SIDE, SIDE)).save(path)
    return path


@pytest.fixture
def curl(program: Callable[[str], str]) -> Curl:
    """Runs the command that the page shows, in a folder: the pictures that it answers."""
    program("curl")

    def curl(command: str, folder: Path) -> list[bytes]:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [base64.b64decode(item["b64_json"]) for item in json.loads(done.stdout)["data"]]

    return curl


async def test_a_dropped_picture_becomes_a_file_of_the_size_asked_for(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url)
    await playground.drop(*photographs("cat"))
    await playground.set_size(128, 96)
    await playground.edit("make the sky green")
    ((name, content),) = await playground.downloads()
    assert name == "cat-edited-1.png"
    assert shapes([content]) == [("PNG", (128, 96))]
    await expect(playground.status).to_have_text(re.compile(r"Done in \d+ seconds: 1 picture\."))


async def test_the_slider_moves_the_line_between_before_and_after(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url)
    await playground.choose(*photographs("cat"))
    await playground.edit("make the sky green")
    slider = playground.page.get_by_role("slider", name="Before and after, 1 of 1")
    await slider.focus()
    await playground.press("ArrowRight", "ArrowRight")
    await expect(slider).to_have_attribute("aria-valuetext", "52% before, 48% after")
    before = playground.page.get_by_alt_text("cat.jpg, before the edit")
    await expect(before).to_have_css(
        "clip-path", re.compile(r"inset\(0px calc\(48%\) 0px 0px\)|inset\(0px 48% 0px 0px\)")
    )


async def test_progress_and_unfinished_pictures_are_shown_until_the_edit_is_cancelled(
    stack: Server, visit: Visit
) -> None:
    playground = await visit(stack.url)
    page = playground.page
    await playground.choose(*photographs("coffee"))
    await playground.set_size(384, 384)
    await playground.set(**LONG)
    await playground.say("make the sky green")
    await playground.start()
    await expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step \d+ of 100"))
    await expect(page.get_by_alt_text("Unfinished picture 1 of 1")).to_be_visible()
    assert 0 < await page.get_by_role("progressbar").evaluate("bar => bar.position") < 1
    await playground.screenshot("running")
    await page.get_by_role("button", name="Cancel").click()
    await expect(playground.status).to_have_text("The edit was cancelled.")
    await expect(page.get_by_role("button", name="Edit", exact=True)).to_be_focused()
    await expect(page.get_by_role("progressbar")).to_be_hidden()
    await expect(page.get_by_text("Your edit appears here")).to_be_visible()
    assert await page.get_by_role("listitem").filter(has_text="Taking shape").count() == 0


async def test_the_command_that_is_shown_makes_the_same_picture(
    stack: Server, visit: Visit, curl: Curl, tmp_path: Path
) -> None:
    """Names and prompts as nobody should choose them; the seed is the server's."""
    odd = tmp_path / 'my "cat"; it\'s, a 50 % $one.jpg'
    shutil.copy(photographs("cat")[0], odd)
    playground = await visit(stack.url)
    await playground.paste(odd)
    await playground.choose(*photographs("coffee"))
    shutil.copy(photographs("coffee")[0], tmp_path)
    await playground.set_size(64, 64)
    await playground.set(Steps=4, **{"What to avoid": "<fog;type=x"})
    await playground.edit('@"it\'s" $HOME `id`; \\ a\nsecond line')
    ((_, content),) = await playground.downloads()
    (answered,) = curl(await playground.command(), tmp_path)
    assert grey_levels(pixels(answered), pixels(content)) <= ROUNDING


async def test_the_copy_button_copies_the_command(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url, permissions=["clipboard-read", "clipboard-write"])
    await playground.choose(*photographs("cat"))
    await playground.edit("make the sky green")
    await playground.page.get_by_role("button", name="Copy").click()
    await expect(playground.page.get_by_role("button", name="Copied")).to_be_visible()
    assert await playground.page.evaluate("navigator.clipboard.readText()") == await playground.command()


async def test_pictures_on_their_own_are_answered_in_order(stack: Server, visit: Visit) -> None:
    files = photographs("cat", "coffee", "rocket")
    playground = await visit(stack.url)
    page = playground.page
    await playground.choose(*files)
    await page.get_by_role("radio", name="Each on its own").check()
    await expect(page.get_by_role("button", name="Paint a mask")).to_be_disabled()
    await playground.set_size(96, 64)
    await playground.set(Steps=2, Seed=5, Variants=2)
    await playground.edit("make the sky green")
    downloaded = await playground.downloads()
    assert [name for name, _ in downloaded] == [
        f"{path.stem}-edited-{2 * index + variant}.png" for index, path in enumerate(files) for variant in (1, 2)
    ]
    assert await page.locator(".facts").all_inner_texts() == ["96 × 64 · seed 5", "96 × 64 · seed 6"] * 3
    asked = {"prompt": "make the sky green", "size": "96x64", "steps": "2", "seed": "5", "n": "2"}
    batch = [("images", (path.name, path.read_bytes())) for path in files]
    answer = requests.post(f"{stack.url}/v1/images/edits", data=asked, files=batch, timeout=60).json()
    for (_, content), expected in zip(downloaded, pictures(answer), strict=True):
        assert grey_levels(pixels(content), expected) <= ROUNDING


async def test_pictures_can_be_moved_and_removed_with_the_keyboard(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url)
    await playground.choose(*photographs("cat", "coffee", "rocket"))
    await playground.expect_pictures("cat.jpg", "coffee.jpg", "rocket.jpg")
    await playground.page.get_by_role("button", name="Move rocket.jpg to the front").focus()
    await playground.press("Enter", "Enter")
    await playground.expect_pictures("rocket.jpg", "cat.jpg", "coffee.jpg")
    await playground.page.get_by_role("button", name="Remove cat.jpg").focus()
    await playground.press("Enter")
    await playground.expect_pictures("rocket.jpg", "coffee.jpg")
    await expect(playground.page.get_by_role("button", name="Remove coffee.jpg")).to_be_focused()


async def test_two_pasted_pictures_of_one_name_get_two(stack: Server, visit: Visit) -> None:
    """As browsers call every pasted picture image.png."""
    playground = await visit(stack.url)
    for _ in range(2):
        await playground.paste(*photographs("cat"))
    await playground.expect_pictures("cat.jpg", "cat-2.jpg")


async def test_a_result_can_be_the_next_input(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url)
    await playground.choose(*photographs("cat", "coffee"))
    await playground.page.get_by_label("File format").evaluate("select => { select.value = 'webp'; }")
    await playground.set_size(64, 96)
    await playground.edit("make the sky green")
    await playground.page.get_by_role("button", name="Use as input").click()
    await expect(playground.page.get_by_label("What should change?")).to_be_focused()
    await playground.expect_pictures("cat-edited-1.webp")
    await playground.edit("make it blue")
    ((name, content),) = await playground.downloads()
    assert name == "cat-edited-1-edited-1.webp"
    assert shapes([content]) == [("WEBP", (64, 96))]


async def masked_edit(playground: Playground) -> bytes:
    await playground.page.get_by_role("button", name="Use mask").click()
    await expect(playground.page.get_by_role("dialog")).to_be_hidden()
    await playground.set(Steps=4)
    await playground.edit("make the sky green")
    ((_, content),) = await playground.downloads()
    return content


async def mask_of(playground: Playground) -> Image.Image:
    async with playground.page.expect_download() as caught:
        await playground.page.get_by_role("link", name="mask.png").click()
    return Image.open(await (await caught.value).path())


def assert_confined(original: Path, edited: bytes, mask: Image.Image) -> None:
    """Outside of the mask are the original's own pixels; inside it is another picture."""
    painted = mask.getchannel("A").point(lambda alpha: 255 * (alpha < 128))
    outside = np.asarray(painted.filter(ImageFilter.MaxFilter(2 * (FEATHER_PIXELS + 3) + 1))) == 0
    inside = np.asarray(painted) > 0
    source, result = pixels(original.read_bytes()), pixels(edited)
    assert outside.sum() > 100
    assert inside.sum() > 100
    assert np.array_equal(result[outside], source[outside])
    assert np.abs(result[inside].astype(int) - source[inside]).mean() > 5


async def test_only_what_is_painted_changes(
    stack: Server, visit: Visit, square: Path, curl: Curl, tmp_path: Path
) -> None:
    playground = await visit(stack.url)
    page = playground.page
    await playground.drop(square)
    await page.get_by_role("button", name="Paint a mask").click()
    box = await page.get_by_role("application", name="Mask").bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ((0.3, 0.3), (0.5, 0.4))]
    await page.mouse.move(*places[0])
    await page.mouse.down()
    await page.mouse.move(*places[1], steps=5)
    await page.mouse.up()
    await expect(page.get_by_text(re.compile(r"[1-9]% of the picture is painted"))).to_be_visible()
    content = await masked_edit(playground)
    mask = await mask_of(playground)
    assert_confined(square, content, mask)
    mask.save(tmp_path / "mask.png")
    (answered,) = curl(await playground.command(), tmp_path)
    assert grey_levels(pixels(answered), pixels(content)) <= ROUNDING


async def test_a_mask_can_be_painted_with_the_keyboard_and_by_numbers(
    stack: Server, visit: Visit, square: Path
) -> None:
    playground = await visit(stack.url)
    page = playground.page
    share = page.locator("#mask-share")
    await playground.choose(square)
    await page.get_by_role("button", name="Paint a mask").focus()
    await playground.press("Enter")
    await expect(page.get_by_role("application", name="Mask")).to_be_focused()
    await playground.press("Shift+ArrowLeft", "ArrowUp", " ")
    await expect(share).to_have_text("2% of the picture is painted.")
    await page.get_by_role("button", name="Everything").press("Enter")
    await expect(share).to_have_text("100% of the picture is painted.")
    await page.get_by_role("button", name="Undo").press("Enter")
    await expect(share).to_have_text("2% of the picture is painted.")
    await page.get_by_role("button", name="Clear").press("Enter")
    await expect(share).to_have_text("Nothing is painted yet.")
    await page.get_by_text("Rectangle by coordinates").press("Enter")
    await page.get_by_label("Left %").fill("0")
    await page.get_by_label("Left %").press("Enter")
    await expect(share).to_have_text("25% of the picture is painted.")
    content = await masked_edit(playground)
    assert_confined(square, content, await mask_of(playground))
    await expect(page.get_by_role("button", name="Change mask")).to_be_visible()
    await page.get_by_role("button", name="Remove the mask").click()
    await playground.edit("make the sky green")
    assert "mask" not in await playground.command()


async def test_a_mask_dialog_that_is_left_changes_nothing(stack: Server, visit: Visit, square: Path) -> None:
    playground = await visit(stack.url)
    page = playground.page
    await playground.choose(square)
    await page.get_by_role("button", name="Paint a mask").click()
    await page.get_by_role("button", name="Everything").click()
    await playground.press("Escape")
    await expect(page.get_by_role("button", name="Paint a mask")).to_be_focused()


async def test_what_is_missing_is_said_where_it_is_missing(stack: Server, visit: Visit) -> None:
    playground = await visit(stack.url)
    page = playground.page
    await playground.start()
    await expect(page.get_by_text("Choose at least one picture.")).to_be_visible()
    await expect(page.get_by_label(re.compile("Choose pictures"))).to_be_focused()
    await playground.choose(*photographs("cat"))
    await playground.start()
    prompt = page.get_by_label("What should change?")
    await expect(prompt).to_be_focused()
    await expect(prompt).to_have_accessible_description("Say what should change.")
    await playground.say("x")
    await expect(page.get_by_text("Say what should change.")).to_be_hidden()
    await playground.set(Steps=0)
    await page.locator("#more").evaluate("details => { details.open = false; }")
    await playground.start()
    await expect(page.get_by_label("Steps")).to_be_focused()
    await expect(page.get_by_role("progressbar")).to_be_hidden()


async def test_the_form_takes_the_servers_limits(stack: Server, visit: Visit) -> None:
    limits = {"MAX_SIDE": "800", "MAX_PIXELS": "500000", "MAX_STEPS": "7"}
    with serve_shim(f"http://{stack.triton_http}", **limits) as shim:
        playground = await visit(shim.url)
    page = playground.page
    ranges = {"Width": (64, 800), "Height": (64, 800), "Steps": (1, 7), "Variants": (1, 10), "Guidance": (0, 20)}
    for label, (minimum, maximum) in ranges.items():
        await expect(page.get_by_label(label, exact=True)).to_have_attribute("min", str(minimum))
        await expect(page.get_by_label(label, exact=True)).to_have_attribute("max", str(maximum))
    await playground.choose(*photographs("cat"))
    await playground.say("make the sky green")
    await page.get_by_label("Size", exact=True).first.select_option("Other …")
    await playground.start()
    height = page.get_by_label("Height", exact=True)
    await expect(height).to_be_focused()
    said = "Width times height may be at most 500000 pixels."
    assert await height.evaluate("input => input.validationMessage") == said
    await playground.set(Height=651)
    assert await height.evaluate("input => input.validity.valid")


async def test_only_sizes_that_the_server_makes_are_offered(stack: Server, visit: Visit) -> None:
    with serve_shim(f"http://{stack.triton_http}", MAX_SIDE="1216", MAX_PIXELS="1040000") as shim:
        playground = await visit(shim.url)
    offered = playground.page.locator("#size option:enabled")
    sizes = ["256 × 256", "512 × 512", "1216 × 832, 3:2", "832 × 1216, 2:3"]
    assert await offered.all_inner_texts() == ["As the picture", "Automatic", *sizes, "Other …"]


async def test_a_file_that_is_no_picture_is_refused_in_words(stack: Server, visit: Visit, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not a picture")
    playground = await visit(stack.url)
    await playground.drop(notes)
    await expect(playground.page.get_by_text("notes.txt is not a picture.")).to_be_visible()
    await expect(playground.thumbnails).to_have_count(0)


async def test_a_picture_that_the_browser_cannot_show_is_still_edited(
    stack: Server, visit: Visit, tmp_path: Path
) -> None:
    path = tmp_path / "scan.tif"
    Image.open(io.BytesIO(photographs("cat")[0].read_bytes())).save(path)
    playground = await visit(stack.url)
    await playground.choose(path)
    await expect(playground.page.get_by_role("button", name="Paint a mask")).to_be_disabled()
    await playground.set_size(64, 64)
    await playground.edit("make the sky green")
    assert shapes(content for _, content in await playground.downloads()) == [("PNG", (64, 64))]
