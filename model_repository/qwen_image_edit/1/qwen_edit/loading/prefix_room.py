"""How much memory the keys and values of prefixes may take, and how many references fit into it."""

from __future__ import annotations

import logging
import math
import os

import torch
from PIL import Image

from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.loading.checkpoint import LoadError
from qwen_edit.pipeline import Row
from qwen_edit.settings import Limits

log = logging.getLogger("image_edit_server")

TEXT_TOKENS = 1024  # a long prompt's
FEWER = (10, 5, 3, 2, 1)  # references that are tried
SHARE_OF_FREE = 0.9  # the rest is for what the allocator cannot join
SHARE_OF_MAIN_MEMORY = 0.25


def room(
    pipeline: Pipeline21, sizes: Sizes, limits: Limits, asked: int | None, *, set_aside: int = 0
) -> tuple[int, int]:
    """Bytes, those asked for or what is free but for what is set aside, and most references of an edit.

    Where a largest edit does not fit beside the weights, fewer references are tried, unless their number is asked for.
    Raises LoadError.
    """
    most = sizes.family.max_references
    if asked is not None:
        found, tried = asked, most
    else:
        free, tried = _measured(pipeline, sizes, limits)
        found = max(0, free - set_aside)
    references = min(limits.references or most_references(pipeline, sizes, found), tried, most)
    log.info("%.3g MB for keys and values of prefixes, up to %d references", found / 1e6, references)
    return found, references


def _measured(pipeline: Pipeline21, sizes: Sizes, limits: Limits) -> tuple[int, int]:
    """Bytes that are free beside an edit of so many references, which is made once."""
    counts = [limits.references] if limits.references else FEWER
    for references in counts:
        try:
            return free_beside(pipeline, sizes, limits.pixels, references), references
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        log.warning("an edit of %d references does not fit beside the weights", references)
    raise LoadError(
        f"MAX_REFERENCES={counts[-1]}, MAX_PIXELS={limits.pixels}: so large an edit does not fit beside the weights; "
        "QUANTIZATION and OFFLOAD leave more room, and PREFIX_CACHE_MB leaves this test out"
    )


def prefix_bytes(pipeline: Pipeline21, sizes: Sizes, references: int) -> int:
    """Of a long prompt with so many references."""
    tokens = references * math.ceil(sizes.reference_area / pipeline.token_pixels**2)
    return pipeline.prefix_bytes(TEXT_TOKENS + tokens)


def most_references(pipeline: Pipeline21, sizes: Sizes, room: int) -> int:
    """That fit twice, so that two edits of so many take turns without a prefix made again; at least one."""
    fitting = (n for n in range(sizes.family.usual_references, 0, -1) if 2 * prefix_bytes(pipeline, sizes, n) <= room)
    return next(fitting, 1)


def free_beside(pipeline: Pipeline21, sizes: Sizes, output_pixels: int, references: int) -> int:
    """Raises what torch raises out of memory."""
    device = pipeline.devices.transformer
    if device.type != "cuda":
        return int(SHARE_OF_MAIN_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    its_own = make_largest(pipeline, sizes, output_pixels, references)
    worked_with = torch.cuda.max_memory_allocated(device) - before - its_own
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, int(SHARE_OF_FREE * (free - worked_with)))


@torch.inference_mode()
def make_largest(pipeline: Pipeline21, sizes: Sizes, output_pixels: int, references: int) -> int:
    """Encodes so many references, makes one step and decodes the output; bytes of the prefix."""
    side = math.isqrt(sizes.reference_area) // 32 * 32
    pictures = [Image.new("RGBA", (side, side), "white")] * references
    templated = pipeline.templated("white " * (TEXT_TOKENS // 2), references)
    states = pipeline.embed(templated, pictures)
    latents = [pipeline.encode_picture(picture) for picture in pictures]
    prefix = pipeline.prefix(templated, states, [picture.size for picture in pictures], latents)
    output = math.isqrt(output_pixels) // 32 * 32
    noise = pipeline.noise(0, (output, output))
    tokens = [each // pipeline.token_pixels for each in (output, *[side] * references)]
    shapes = tuple((1, each, each) for each in tokens)
    (velocity,) = pipeline.velocities([Row(noise.to(pipeline.dtype), shapes, prefix, 1.0)])
    pipeline.decode(pipeline.unpack(velocity, (output, output))).cpu()
    return prefix.nbytes
