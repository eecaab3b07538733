"""What it saves to run the VAE over pictures instead of films, in CPU seconds, taken in turns.

    make bench-vae

Prints, for the demo's checkpoint at its own size: encoding, decoding, and a whole edit of a photograph.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from qwen_edit.loading import pictures_once, single_frame

from checkpoints.demo.__main__ import DEMO_CHECKPOINT
from tests.kit.engines import edit, engine_on, load_pipeline

ROUNDS = 7
SIDE = 256
PHOTOGRAPH = Path(__file__).parents[1] / "tests" / "data" / "cat.jpg"


def pipeline(*, film: bool) -> Any:
    parts = load_pipeline(DEMO_CHECKPOINT)
    if not film:
        single_frame.bind(parts.vae)
        pictures_once.bind(parts.text_encoder.model)
    return parts


def in_turns(film: Callable[[], object], pictures: Callable[[], object]) -> tuple[float, float]:
    """Medians of both, CPU seconds."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        for work, taken in zip((film, pictures), seconds, strict=True):
            started = time.process_time()
            work()
            taken.append(time.process_time() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


@torch.inference_mode()
def main() -> None:
    film, pictures = pipeline(film=True), pipeline(film=False)
    frames = torch.rand(1, 3, 1, SIDE, SIDE) * 2 - 1
    latents = film.vae.encode(frames).latent_dist.mode()
    with engine_on(film, cache_bytes=0) as of_films, engine_on(pictures, cache_bytes=0) as of_pictures:
        photograph = PHOTOGRAPH.read_bytes()
        sizes: dict[str, Any] = {"size": (SIDE, SIDE), "num_inference_steps": 8}
        rows = {
            "encoding": in_turns(lambda: film.vae.encode(frames), lambda: pictures.vae.encode(frames)),
            "decoding": in_turns(lambda: film.vae.decode(latents), lambda: pictures.vae.decode(latents)),
            "an edit in 8 steps": in_turns(
                lambda: of_films.latents(edit(photograph, **sizes)),
                lambda: of_pictures.latents(edit(photograph, **sizes)),
            ),
        }
    print(f"| {SIDE}², CPU seconds | as a film | as a picture | times |\n|---|---|---|---|")
    for name, (before, after) in rows.items():
        print(f"| {name} | {before:.3f} | {after:.3f} | {before / after:.2f} |")


if __name__ == "__main__":
    main()
