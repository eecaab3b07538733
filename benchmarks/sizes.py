"""Random sizes and shapes through the demo: is each answered exactly, in its place, and at what price?

    make bench-sizes

Each edit keeps a drawing as it is, in two steps. A third name no size, a third one of the drawing's shape, a third one
of any shape, into which the whole drawing is squeezed. Places are compared with the drawing resampled to the answer's
size, by phase correlation (tests/kit/registration.py).
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from qwen_edit.families.family import Size
from qwen_edit.families.grid import aspect_error

from checkpoints.demo.__main__ import DEMO_CHECKPOINT
from tests.kit.encoding import encoded
from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline
from tests.kit.registration import drawing, grey, shift

SEED = 14
OWN = (256, 256)  # pixels that the demo was trained at
SIDES = (160, 640)  # of a square of as many pixels
LONGEST = 3.0  # sides to one
SMALLEST = 64


@dataclass(frozen=True)
class Asked:
    source: Size
    size: Size | None


@dataclass(frozen=True)
class Seen:
    asked: Asked
    answered: Size
    off: float  # pixels of the answer, in rows or columns
    rendered: Size
    tokens: float  # of the output, times those of the demo's own size

    @property
    def exact(self) -> bool:
        return self.asked.size in (None, self.answered)

    @property
    def off_rendered(self) -> float:
        """In pixels as large as those that the model rendered, where the answer's are smaller."""
        return self.off * min(1.0, math.sqrt(math.prod(self.rendered) / math.prod(self.answered)))


def shaped(chance: random.Random) -> Size:
    aspect, side = LONGEST ** chance.uniform(-1, 1), chance.uniform(*SIDES)
    return max(SMALLEST, round(side * aspect**0.5)), max(SMALLEST, round(side / aspect**0.5))


def drawn(count: int) -> dict[str, list[Asked]]:
    chance = random.Random(SEED)
    kinds: dict[str, list[Asked]] = {"none": [], "the drawing's shape": [], "any shape": []}
    for number in range(count):
        kind = list(kinds)[number % len(kinds)]
        width, height = source = shaped(chance)
        scale = chance.uniform(0.5, 1.5)
        scaled = max(SMALLEST, round(scale * width)), max(SMALLEST, round(scale * height))
        kinds[kind].append(Asked(source, {"none": None, "any shape": shaped(chance)}.get(kind, scaled)))
    return kinds


def see(demo: TestEngine, asked: Asked) -> Seen:
    source = drawing(asked.source)
    request = edit(encoded(source), prompt="keep it as it is", size=asked.size, num_inference_steps=2)
    image = demo.submit(request).wait().image
    assert image is not None
    answer = Image.fromarray(image)
    places = shift(grey(answer), grey(source.resize(answer.size, Image.Resampling.LANCZOS)))
    geometry = demo.sizes.geometry([asked.source], asked.size, masked=False)
    own = demo.sizes.geometry([OWN], OWN, masked=False)
    tokens = geometry.tokens[0] / own.tokens[0]
    return Seen(asked, answer.size, max(map(abs, places)), geometry.output, tokens)


def row(kind: str, seen: Sequence[Seen]) -> str:
    off, rendered = ([getattr(each, name) for each in seen] for name in ("off", "off_rendered"))
    shapes = max(aspect_error(each.answered, each.asked.size or each.asked.source) for each in seen)
    return (
        f"| {kind} | {len(seen)} | {sum(each.exact for each in seen)} | {shapes:.2%} | "
        f"{np.median(off):.2f}, {max(off):.2f} | {sum(value > 0.5 for value in off)} | "
        f"{np.median(rendered):.2f}, {max(rendered):.2f} | {max(each.tokens for each in seen):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    print(
        "| size asked for | answers | exact | shape off, most | px of the answer off, median, most | over 0.5 | ",
        end="",
    )
    print("rendered px off, median, most | tokens, most |\n|---|---|---|---|---|---|---|---|")
    with engine_on(load_pipeline(DEMO_CHECKPOINT), reference_area=OWN[0] * OWN[1], one_area=True) as demo:
        for kind, all_asked in drawn(options.count).items():
            seen = [see(demo, asked) for asked in all_asked]
            print(row(kind, seen), flush=True)


if __name__ == "__main__":
    main()
