"""The checkpoint families besides Plus, end to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests

from tests.kit.answers import grey_levels, pictures
from tests.kit.servers import Server

Photo = Callable[[str], bytes]
FIELDS: dict[str, str | int] = {"prompt": "make it blue", "size": "64x64", "seed": 3}


def post(server: Server, *images: bytes, **fields: str | int) -> requests.Response:
    files = [("image[]", image) for image in images]
    return requests.post(f"{server.url}/v1/images/edits", data=FIELDS | fields, files=files, timeout=60)


def answer(server: Server, *images: bytes, **fields: str | int) -> dict[str, Any]:
    response = post(server, *images, **fields)
    assert response.status_code == 200, response.text
    parsed: dict[str, Any] = response.json()
    return parsed


def test_an_edit_checkpoint_edits_one_picture(edit_family: Server, photo: Photo) -> None:
    first, again = (answer(edit_family, photo("cat"), cfg=4) for _ in range(2))
    assert first["data"] == again["data"]
    assert (first["size"], pictures(first)[0].shape) == ("64x64", (64, 64, 3))


def test_an_edit_checkpoint_takes_one_reference_and_says_so(edit_family: Server, photo: Photo) -> None:
    response = post(edit_family, photo("cat"), photo("coffee"))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "INVALID_INPUT", "image")
    assert "1 is allowed" in error["message"]


def test_a_2511_checkpoint_edits_with_references_in_order(crowded: Server, photo: Photo) -> None:
    one = answer(crowded, photo("cat"))
    two = answer(crowded, photo("cat"), photo("coffee"))
    assert one["usage"]["input_images"] == 1
    assert two["usage"]["input_images"] == 2
    assert two["data"] == answer(crowded, photo("cat"), photo("coffee"))["data"]


def test_variants_of_an_admitted_request_are_all_answered_on_a_server_of_one_job(crowded: Server, photo: Photo) -> None:
    several = pictures(answer(crowded, photo("cat"), n=3))
    alone = [pictures(answer(crowded, photo("cat"), seed=seed))[0] for seed in (3, 4, 5)]
    assert [grey_levels(a, b) for a, b in zip(several, alone, strict=True)] == [0, 0, 0]
