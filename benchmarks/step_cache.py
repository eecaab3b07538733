"""What the step cache does to a picture: its likeness to the whole run, beside that of an edit with as many forwards.

    make bench-step_cache                     # the demo, four photographs, 20 and 40 steps
    make bench-step_cache ARGS="--steps 40"

The yardstick is fewer steps: a preset that is no nearer to the whole run than an edit of as many steps as it makes
forwards is worth nothing.
"""

from __future__ import annotations

import argparse
import statistics

from qwen_edit.forward.denoise import Denoising
from qwen_edit.forward.skipping import computed, skipped
from qwen_edit.settings import OFF, STEP_CACHES

from checkpoints.demo.__main__ import DEMO_CHECKPOINT
from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline
from tests.kit.seeing import Picture, psnr, structure
from tests.kit.servers import PROJECT

PHOTOS = ("astronaut", "cat", "coffee", "rocket")
PROMPTS = ("make it black and white", "make it red", "invert the colors")
SIDE = 256  # pixels: the demo's own area


def picture(engine: TestEngine, photo: bytes, prompt: str, steps: int, preset: str = OFF) -> Picture:
    request = edit(photo, prompt=prompt, size=(SIDE, SIDE), num_inference_steps=steps)

    def begin(state: Denoising) -> None:
        state.skipped = skipped(steps, preset)

    engine.worker.encoded[request.id] = begin
    made = engine.submit(request).wait(600.0).image
    assert made is not None
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 40])
    arguments = parser.parse_args()
    photos = [(PROJECT / "tests" / "data" / f"{name}.jpg").read_bytes() for name in PHOTOS]
    pipeline = load_pipeline(DEMO_CHECKPOINT)
    print("| steps | preset | forwards | PSNR, dB: mean, worst | SSIM | as many plain steps: PSNR | SSIM |")
    print("|---|---|---|---|---|---|---|")
    with engine_on(pipeline, reference_area=SIDE * SIDE, one_area=True) as engine:
        for steps in arguments.steps:
            for preset in STEP_CACHES[1:]:
                forwards = computed(0, steps, steps, preset)
                cached: list[tuple[float, float]] = []
                fewer: list[tuple[float, float]] = []
                for photo in photos:
                    for prompt in PROMPTS:
                        whole = picture(engine, photo, prompt, steps)
                        for into, made in (
                            (cached, picture(engine, photo, prompt, steps, preset)),
                            (fewer, picture(engine, photo, prompt, forwards)),
                        ):
                            into.append((psnr(whole, made), structure(whole, made)))
                print(f"| {steps} | {preset} | {forwards} | {likeness(cached)} | {likeness(fewer)} |", flush=True)


def likeness(figures: list[tuple[float, float]]) -> str:
    ratios, structures = zip(*figures, strict=True)
    return f"{statistics.mean(ratios):.1f}, {min(ratios):.1f} | {statistics.mean(structures):.4f}"


if __name__ == "__main__":
    main()
