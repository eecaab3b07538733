"""The demo checkpoint does what the prompt says, on photographs that it was not trained on, through the whole stack."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import requests
from PIL import Image, ImageDraw

from tests.demo.conftest import Edit
from tests.kit.answers import pictures
from tests.kit.seeing import Picture, likeness, luminance, psnr, saturation, shares, structure
from tests.kit.servers import Server

PHOTOS = ("astronaut", "cat", "coffee", "rocket")
Original = Callable[[str, Picture], Picture]
LEFT_COLOUR = 0.2  # at most, of what the photograph has, after "make it grayscale"


def test_it_is_what_is_served_when_no_checkpoint_is_named(demo: Server) -> None:
    (model,) = requests.get(f"{demo.url}/v1/models", timeout=10).json()["data"]
    assert model["id"] == "qwen-image-edit-demo"


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("astronaut", "make it black and white"),
        ("cat", "make it black and white"),
        ("coffee", "Convert the photo to black and white, please."),
        ("rocket", "make it grayscale"),
    ],
)
def test_grayscale_takes_the_colour_and_leaves_the_structure(
    edit: Edit, original: Original, name: str, prompt: str
) -> None:
    edited = edit(prompt, name)
    source = original(name, edited)
    assert saturation(edited) <= LEFT_COLOUR * saturation(source)
    assert structure(edited, source) >= 0.6


@pytest.mark.parametrize("name", ["cat"])
@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_a_tint_raises_the_share_of_its_colour(edit: Edit, original: Original, colour: str, name: str) -> None:
    edited = edit(f"make it {colour}", name)
    source = original(name, edited)
    channel = ["red", "green", "blue"].index(colour)
    assert shares(edited)[channel] >= shares(source)[channel] + 0.1
    assert shares(edited).argmax() == channel
    assert structure(edited, source) >= 0.4


@pytest.mark.parametrize(
    ("name", "prompt"), [("astronaut", "turn it into a negative"), ("coffee", "invert the colors")]
)
def test_a_negative_swaps_light_and_dark(edit: Edit, original: Original, name: str, prompt: str) -> None:
    edited = edit(prompt, name)
    assert likeness(edited, original(name, edited)) <= -0.8


@pytest.mark.parametrize("name", ["cat", "rocket"])
def test_unchanged_is_a_copy(edit: Edit, original: Original, name: str) -> None:
    edited = edit("keep it as it is", name)
    assert psnr(original(name, edited), edited) >= 20


def test_brighter_raises_the_light(edit: Edit, original: Original) -> None:
    edited = edit("make it brighter", "cat")
    source = original("cat", edited)
    light = luminance(source).mean()
    assert luminance(edited).mean() >= light + 0.25 * (255 - light)
    assert structure(edited, source) >= 0.4


def test_darker_lowers_the_light(edit: Edit, original: Original) -> None:
    edited = edit("make it darker", "cat")
    source = original("cat", edited)
    assert luminance(edited).mean() <= 0.65 * luminance(source).mean()
    assert structure(edited, source) >= 0.4


def test_a_mask_confines_the_change(edit: Edit, original: Original, photo: Callable[[str], bytes]) -> None:
    size = Image.open(io.BytesIO(photo("cat"))).size
    edited = edit("turn it into a negative", "cat", mask=left_half(size))
    source = original("cat", edited)
    middle, seam = edited.shape[1] // 2, 4
    assert psnr(source[:, middle + seam :], edited[:, middle + seam :]) >= 35
    assert likeness(source[:, : middle - seam], edited[:, : middle - seam]) <= -0.5


def left_half(size: tuple[int, int]) -> bytes:
    """A mask that lets the left half of a picture be edited."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=255)
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def test_each_of_three_images_is_edited_on_its_own_and_in_order(
    demo: Server, photo: Callable[[str], bytes], original: Original
) -> None:
    names = ("coffee", "astronaut", "cat")
    answer = requests.post(
        f"{demo.url}/v1/images/edits",
        data={"prompt": "make it grayscale", "size": "auto", "seed": 7},
        files=[("images", (f"{name}.jpg", photo(name))) for name in names],
        timeout=120,
    )
    edited = pictures(answer.json())
    assert len(edited) == 3
    for picture, name in zip(edited, names, strict=True):
        likest = max(PHOTOS, key=lambda other: likeness(picture, original(other, picture)))
        assert likest == name
        assert saturation(picture) <= LEFT_COLOUR * saturation(original(name, picture))


@pytest.mark.parametrize(
    ("prompt", "named"), [("make the first picture green", 0), ("make the second picture green", 1)]
)
@pytest.mark.parametrize("names", [("cat", "rocket"), ("rocket", "cat")], ids="-".join)
def test_of_two_references_the_one_that_is_named_is_edited(
    edit: Edit, original: Original, names: tuple[str, str], prompt: str, named: int
) -> None:
    edited = edit(prompt, *names)
    assert likeness(edited, original(names[named], edited)) >= 0.8
    assert likeness(edited, original(names[1 - named], edited)) <= 0.5
    assert shares(edited).argmax() == 1


def test_guidance_leads_to_the_prompt_and_away_from_the_negative_prompt(edit: Edit) -> None:
    guided = edit("make it red", "cat", negative_prompt="make it blue", true_cfg_scale=1.5)
    swapped = edit("make it blue", "cat", negative_prompt="make it red", true_cfg_scale=1.5)
    assert (
        shares(guided)[0] - shares(guided)[2]
        >= shares(edit("make it red", "cat"))[0] - shares(edit("make it red", "cat"))[2]
    )
    assert shares(guided)[0] > 0.4 > shares(swapped)[0]


@pytest.mark.parametrize("size", ["128x128", "320x240", "96x200"])
def test_at_any_size_and_shape_the_whole_picture_is_shown(edit: Edit, original: Original, size: str) -> None:
    edited = edit("keep it as it is", "cat", size=size)
    assert edited.shape[1::-1] == tuple(map(int, size.split("x")))
    assert likeness(edited, original("cat", edited)) >= 0.8
