"""More than a server can take: refusals that tell when to come again, and nobody else harmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.kit.answers import pictures, same
from tests.kit.servers import Server, serve, serve_shim

pytestmark = pytest.mark.faults

Photo = Callable[[str], bytes]
LONG = {"prompt": "x", "size": "512x512", "num_inference_steps": "100", "seed": "1"}
SHORT = {"prompt": "x", "size": "64x64", "num_inference_steps": "4", "seed": "2"}


@pytest.fixture(scope="module")
def narrow(checkpoint: Callable[[str], Path]) -> Iterator[Server]:
    """Holds two edits, and works on one."""
    with serve(checkpoint("plus"), MAX_JOBS="2", MAX_BATCH_TOKENS="1", REFERENCE_AREA="4096") as server:
        yield server


def edit(server: Server, picture: bytes, **fields: str) -> requests.Response:
    return requests.post(f"{server.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=120)


@contextmanager
def full(server: Server, photo: Photo) -> Iterator[None]:
    """Two long edits are under way meanwhile, each in one call to Triton."""
    with serve_shim(f"http://{server.triton_http}", SEGMENT_STEPS="0") as whole, ThreadPoolExecutor() as pool:
        editing = [pool.submit(edit, whole, photo("cat"), **LONG) for _ in range(2)]
        server.wait_for(lambda: server.metric("qwen_edit_jobs") == 2)
        yield
        assert not any(each.done() for each in editing), "the long edits ended too early"
        assert [each.result().status_code for each in editing] == [200, 200]


def test_a_flood_is_refused_mostly_at_the_door_and_told_when_to_come_again(narrow: Server, photo: Photo) -> None:
    expected = pictures(edit(narrow, photo("coffee"), **SHORT).json())
    before = narrow.metric("qwen_edit_edits_total", outcome="refused")
    with full(narrow, photo), ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: edit(narrow, photo("coffee"), **SHORT), range(200)))
        assert requests.get(f"{narrow.url}/health", timeout=5).status_code == 200
    assert {answer.status_code for answer in answers} == {429}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in answers)
    codes = {body["code"] if isinstance(body := answer.json()["error"], dict) else body for answer in answers}
    assert codes == {"QUEUE_FULL"}
    asked = narrow.metric("qwen_edit_edits_total", outcome="refused") - before
    assert 8 <= asked < 150, "the engine was asked for each of them"
    narrow.wait_for(lambda: edit(narrow, photo("coffee"), **SHORT).status_code == 200)
    assert same(pictures(edit(narrow, photo("coffee"), **SHORT).json()), expected)


def test_the_many_jobs_of_one_request_do_not_starve_the_others(narrow: Server, photo: Photo) -> None:
    """It has one job in the engine at a time; the other place is everybody's."""
    with (
        serve_shim(f"http://{narrow.triton_http}", MAX_JOBS_PER_REQUEST="1") as modest,
        ThreadPoolExecutor() as pool,
    ):
        many = pool.submit(edit, modest, photo("cat"), **SHORT | {"n": "10", "num_inference_steps": "100"})
        modest.wait_for(lambda: narrow.metric("qwen_edit_jobs") >= 1)
        answers = [edit(modest, photo("coffee"), **SHORT) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        assert not many.done(), "the many ended too early"
        assert len(many.result().json()["data"]) == 10
