"""A process that decodes pictures and nothing else: what a file does to a decoder, it does to this one alone.

Started by decoders.py as `python -m qwen_edit.pictures.decoder`, with a connection as its standard input. It gets

    a task (JSON), the file         and answers  {"size": [width, height]}
    the sizes that are needed (JSON)             {}, then the pixels at each size; nothing where none is needed

or, at either place, {"refused": words}. Nothing here is pickled: who breaks into a decoder is not to get further.
It imports neither torch nor what imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.pictures import regions
from qwen_edit.pictures.colour import Colours
from qwen_edit.pictures.images import PictureFile, flattened, has_transparency, in_srgb, judged, on_white

READY = b"ready"
NICENESS = 15  # the engine's steps go first
CPU_SECONDS = 2.0  # for one picture
MORE_SECONDS_PER_BYTE = 1 / 2**20  # of its file, after the first MiB
MOST_CPU_SECONDS = 10.0
MEMORY = 500 * 2**20  # bytes for one picture, beside
MEMORY_PER_BYTE = 4  # of its file

PR_SET_PDEATHSIG = 1
OPAQUE = 255


def coloured(file: PictureFile, needed_pixels: int | None, sizes: list[Size]) -> list[Image.Image]:
    """In sRGB on white, as the pipelines resize them; colours are converted last, when there are fewest of them."""
    picture, colours = file.decoded(needed_pixels), file.colours
    if has_transparency(picture):
        flat = on_white(picture, colours)
        return [flat.resize(size, Image.Resampling.LANCZOS) for size in sizes]
    return resized(picture, colours, sizes)


def resized(picture: Image.Image, colours: Colours, sizes: list[Size]) -> list[Image.Image]:
    """Of an opaque picture."""
    if colours.mode:
        profiled = picture.convert(colours.mode)
        return [colours.to_srgb(profiled.resize(size, Image.Resampling.LANCZOS)) for size in sizes]
    flat = flattened(picture)
    return [flat.resize(size, Image.Resampling.LANCZOS).convert("RGB") for size in sizes]


def transparent(file: PictureFile, needed_pixels: int | None, sizes: list[Size]) -> list[Image.Image]:
    """Likewise, but with its alpha."""
    picture = file.decoded(needed_pixels)
    if not has_transparency(picture):
        return [each.convert("RGBA") for each in resized(picture, file.colours, sizes)]
    whole = in_srgb(picture, file.colours)
    return [whole.resize(size, Image.Resampling.LANCZOS) for size in sizes]


def region(file: PictureFile, needed_pixels: int | None, sizes: list[Size]) -> list[Image.Image]:
    whole = regions.region(file.decoded(needed_pixels))
    return [regions.resized(whole, size) for size in sizes]


def drawing(file: PictureFile, needed_pixels: int | None, sizes: list[Size]) -> list[Image.Image]:
    """To be laid over another picture, of which it must show something."""
    whole = in_srgb(file.decoded(needed_pixels), file.colours)
    if whole.getchannel("A").getextrema()[0] == OPAQUE:
        raise BadRequest(
            "markup",
            "opaque everywhere, so that it would hide the picture: draw on a transparent layer of the picture's size",
        )
    return [whole.resize(size, Image.Resampling.LANCZOS) for size in sizes]


RESULTS: dict[tuple[str, str], Callable[[PictureFile, int | None, list[Size]], list[Image.Image]]] = {
    ("image", "RGB"): coloured,
    ("image", "RGBA"): transparent,
    ("mask", "L"): region,
    ("markup", "RGBA"): drawing,
}  # by the tensor and the mode that is wanted


def cpu_seconds(file_bytes: int) -> float:
    return min(CPU_SECONDS + max(0, file_bytes - 2**20) * MORE_SECONDS_PER_BYTE, MOST_CPU_SECONDS)


@contextlib.contextmanager
def limited(file_bytes: int, base: int) -> Iterator[None]:
    """The kernel ends this process where it takes longer; what needs more memory than is left raises MemoryError."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY + MEMORY_PER_BYTE * file_bytes, hard))
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds(file_bytes))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def serve(parent: Connection) -> None:
    base = address_space()
    while True:
        task = json.loads(parent.recv_bytes())
        data = parent.recv_bytes()
        with limited(len(data), base):
            try:
                _answer(parent, data, **task)
            except BadRequest as error:
                parent.send_bytes(json.dumps({"refused": error.detail}).encode())


def _answer(
    parent: Connection, data: bytes, tensor: str, mode: str, max_pixels: int, needed_pixels: int | None
) -> None:
    with judged(data, tensor):
        file = PictureFile(data, tensor, max_pixels)
        size = file.size
    parent.send_bytes(json.dumps({"size": size}).encode())
    sizes = [(width, height) for width, height in json.loads(parent.recv_bytes())]
    if not sizes:
        return
    with judged(data, tensor):
        pixels = [picture.tobytes() for picture in RESULTS[tensor, mode](file, needed_pixels, sizes)]
    parent.send_bytes(b"{}")
    for each in pixels:
        parent.send_bytes(each)


def address_space() -> int:
    """Bytes of it that are in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    Image.preinit()
    Image.init()
    with contextlib.suppress(EOFError, OSError), Connection(0) as parent:  # it has ended
        parent.send_bytes(READY)
        serve(parent)


if __name__ == "__main__":
    main()
