"""How much memory the keys and values of prefixes may take, and how many references fit into it."""

from __future__ import annotations

import math
import os

import torch
from PIL import Image

from qwen_edit.families.sizes import Sizes
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.pipeline import Row

TEXT_TOKENS = 1024  # a long prompt's
SHARE_OF_FREE = 0.9  # the rest is for what the allocator cannot join
SHARE_OF_MAIN_MEMORY = 0.25


def prefix_bytes(pipeline: Pipeline21, sizes: Sizes, references: int) -> int:
    """Of a long prompt with so many references."""
    tokens = references * math.ceil(sizes.reference_area / pipeline.token_pixels**2)
    return pipeline.prefix_bytes(TEXT_TOKENS + tokens)


def most_references(pipeline: Pipeline21, sizes: Sizes, room: int) -> int:
    """That fit twice, so that two edits of so many take turns without a prefix made again; at least one."""
    fitting = (n for n in range(sizes.family.usual_references, 0, -1) if 2 * prefix_bytes(pipeline, sizes, n) <= room)
    return next(fitting, 1)


def measured(pipeline: Pipeline21, sizes: Sizes, output_pixels: int, references: int) -> int:
    """Bytes that are free beside the largest edit, which is made once; raises what torch raises out of memory."""
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
