"""Pictures decoded in processes of their own: what a file can do to one, and to nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.loading.checkpoint import LoadError
from qwen_edit.pictures import decoders as module
from qwen_edit.pictures.decoders import DECODERS, ROOT, Decoders, at_once

from tests.kit.decoding import decode, decode_mask
from tests.kit.hostile_pictures import LABORIOUS, gradient, jpeg, jpeg_of_seconds, saved

DATA = Path(__file__).parents[2] / "data"
MAX_PIXELS, NEEDED_PIXELS = 10**9, 960 * 640


def all_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.cmdline()[-1:] == ["qwen_edit.pictures.decoder"]]


@pytest.fixture(scope="module")
def others() -> set[psutil.Process]:
    """The decoders of engines of other tests."""
    return set(all_processes())


@pytest.fixture(scope="module")
def decoders(others: set[psutil.Process]) -> Iterator[Decoders]:
    running = Decoders(MAX_PIXELS, NEEDED_PIXELS)
    yield running
    running.close()


@pytest.fixture
def processes(others: set[psutil.Process]) -> Callable[[], list[psutil.Process]]:
    """Those of `decoders`."""
    return lambda: [process for process in all_processes() if process not in others]


def at(*sizes: Size) -> Callable[[Size], list[Size]]:
    return lambda own: list(sizes)


def test_a_decoder_imports_neither_torch_nor_the_engine() -> None:
    script = "import qwen_edit.pictures.decoder, sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(found.stdout.split())
    assert "PIL.Image" in modules
    assert not {name for name in modules if name.split(".")[0] in ("torch", "diffusers", "transformers")}
    assert not {"qwen_edit.engine", "qwen_edit.worker", "qwen_edit.pipeline"} & modules


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_is_the_same_to_the_last_bit_as_decoded_here(decoders: Decoders, kind: str, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(gradient(300).convert(mode).crop((0, 0, 300, 200)), kind, exif=exif)
    own, (small, large) = decoders.picture(data, at((96, 64), (320, 480)))
    whole = decode(data, MAX_PIXELS)
    assert own == whole.size
    for found in (small, large):
        assert np.array_equal(np.asarray(found), np.asarray(whole.resize(found.size, Image.Resampling.LANCZOS)))


def test_a_mask_is_the_same_as_decoded_here(decoders: Decoders) -> None:
    data = saved(gradient(300).convert("RGB"), "PNG")
    own, (region,) = decoders.mask(data, at((300, 300)))
    assert (own, region.mode) == ((300, 300), "L")
    assert np.array_equal(np.asarray(region), np.asarray(decode_mask(data, MAX_PIXELS)))


def test_the_sizes_may_depend_on_its_own_and_what_refuses_it_leaves_the_decoder(
    decoders: Decoders, processes: Callable[[], list[psutil.Process]]
) -> None:
    before = processes()

    def refuse(own: Size) -> list[Size]:
        raise BadRequest("size", f"not for {own}")

    for _ in range(DECODERS):
        with pytest.raises(BadRequest, match=r"size: not for \(64, 64\)"):
            decoders.picture(jpeg(), refuse)
    assert decoders.picture(jpeg(), lambda own: [own])[1][0].size == (64, 64)
    assert decoders.picture(jpeg(), at())[1] == []
    assert processes() == before


def test_a_large_jpeg_that_is_shrunk_while_it_is_decoded_is_within_a_grey_level(decoders: Decoders) -> None:
    large = Image.open(DATA / "cat.jpg").resize((4800, 3200), Image.Resampling.BICUBIC)
    data = saved(large, "JPEG", quality=95)
    _, (shrunk,) = decoders.picture(data, at((960, 640)))
    whole = decode(data, MAX_PIXELS).resize((960, 640), Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(shrunk).astype(int) - np.asarray(whole))
    assert 0 < difference.mean() < 0.5, "it was not shrunk, or is another picture"
    assert difference.max() <= 6


def test_a_jpeg_may_have_twice_as_many_pixels_as_others(decoders: Decoders) -> None:
    small = Decoders(5_000, 10**4)
    try:
        own, _ = small.picture(jpeg(), at((32, 32)))
        assert own == (64, 64)
        with pytest.raises(BadRequest, match="128x128 is 16384 pixels: at most 10000 are allowed"):
            small.picture(saved(gradient(128), "JPEG"), at((32, 32)))
        with pytest.raises(BadRequest, match="80x80 is 6400 pixels: at most 5000 are allowed"):
            small.picture(saved(gradient(80), "PNG"), at((32, 32)))
    finally:
        small.close()


def test_a_picture_that_takes_too_long_ends_its_decoder_alone_which_is_replaced(
    decoders: Decoders, processes: Callable[[], list[psutil.Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own time, however little of it a busy machine gives."""
    monkeypatch.setattr(module, "STILL_SECONDS", 1.5)
    decoders.picture(jpeg(), at())
    before = set(processes())
    with pytest.raises(BadRequest, match=r"^image: \d+ bytes, not .* it takes more than 2 s of CPU time$"):
        decoders.picture(jpeg_of_seconds(), at((1024, 1024)))
    assert len(before & set(processes())) == DECODERS - 1
    for _ in range(DECODERS):
        assert decoders.picture(jpeg(), at((32, 32)))[0] == (64, 64)
    assert len(processes()) == DECODERS


def test_a_decoder_that_stands_still_is_replaced(
    decoders: Decoders, processes: Callable[[], list[psutil.Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_SECONDS", 0.5)
    still = processes()
    for process in still:
        process.suspend()
    with pytest.raises(BadRequest, match=r"it ends its decoder$"):  # both, one after the other
        decoders.picture(jpeg(), at((32, 32)))
    for _ in range(DECODERS):
        assert decoders.picture(jpeg(), at((32, 32)))[0] == (64, 64)
    assert not set(processes()) & set(still)


def test_a_picture_that_takes_too_much_memory_is_refused_and_leaves_the_decoder(
    decoders: Decoders, processes: Callable[[], list[psutil.Process]]
) -> None:
    before = processes()
    huge = saved(Image.new("RGBA", (5_700, 5_700), (0, 0, 0, 9)), "PNG")
    with pytest.raises(BadRequest, match=r"^image: \d+ bytes, not .* it takes too much memory$"):
        decoders.picture(huge, at((20_000, 8_000)))
    assert processes() == before


def test_of_a_picture_whose_decoder_was_killed_nobody_hears(
    decoders: Decoders, processes: Callable[[], list[psutil.Process]]
) -> None:
    killed = processes()
    for process in killed:
        process.kill()
    while any(process.status() != psutil.STATUS_ZOMBIE for process in killed):
        time.sleep(0.01)
    for _ in range(DECODERS + 1):
        assert decoders.picture(jpeg(), at((32, 32)))[0] == (64, 64)
    assert len(processes()) == DECODERS


def test_what_a_large_picture_took_does_not_count_against_the_next(
    decoders: Decoders, processes: Callable[[], list[psutil.Process]]
) -> None:
    data = saved(Image.new("RGBA", (4_600, 4_600)), "WEBP", method=0)  # 1 s of CPU time, of which 2 are allowed
    for _ in range(DECODERS):
        decoders.picture(data, at((1024, 1024), (384, 384)))
    assert max(process.memory_info().rss for process in processes()) < 150 * 2**20, "228 MiB were kept"


def test_a_damaged_picture_leaves_the_decoder(
    decoders: Decoders, processes: Callable[[], list[psutil.Process]]
) -> None:
    before = processes()
    make, size = LABORIOUS["png of empty chunks"]
    for data, words in ((jpeg()[:300], "damaged"), (b"nothing", "not a known kind"), (make(size), "too many small")):
        with pytest.raises(BadRequest, match=words):
            decoders.picture(data, at((32, 32)))
    assert processes() == before


@pytest.mark.parametrize(("cores", "decoders"), [(1, 1), (2, 1), (3, 2), (16, DECODERS)])
def test_as_many_are_to_work_at_once_as_leave_a_core_to_the_engine(
    cores: int, decoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert at_once() == decoders


@pytest.mark.parametrize(
    ("command", "words"),
    [(("/nowhere/python",), "does not start: No such file"), (("false",), "ended with status 1")],
    ids=["no such file", "one that ends"],
)
def test_decoders_that_do_not_start_are_an_error_in_words(
    command: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND", command)
    with pytest.raises(LoadError, match=f"{command[0]}|python.*, which decodes pictures, {words}"):
        Decoders(MAX_PIXELS, NEEDED_PIXELS)


BUSY = """
import sys, threading
from qwen_edit.pictures.decoders import Decoders
decoders = Decoders(10**9, 10**6)
data = sys.stdin.buffer.read()
def wanted(own):
    print("at work", flush=True)
    return [own]
threading.Thread(target=decoders.picture, args=(data, wanted)).start()
"""


def test_they_end_with_the_process_that_started_them_even_while_they_decode() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    )
    with starter:
        assert starter.stdin
        assert starter.stdout
        starter.stdin.write(jpeg_of_seconds())
        starter.stdin.close()
        assert starter.stdout.readline() == b"at work\n"
        children = psutil.Process(starter.pid).children()
        assert len(children) == DECODERS
        starter.kill()
    _, alive = psutil.wait_procs(children, timeout=1)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
