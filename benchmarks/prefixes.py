"""Qwen-Image-2.1 for eight clients with pictures and prompts of their own: what is computed, and in how many seconds.

    make bench-prefixes

Medium checkpoint, one reference each. In turns: diffusers' pipeline with its own cache of keys and values, one edit
after the other; the engine, one after the other; the engine with all of them at once. Prefixes and forwards are
counted, seconds are the CPU's, and ratios are taken within a round. First each edit's latents are compared.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from qwen_edit.loading.assembly import bind
from qwen_edit.request import EditRequest

from benchmarks.engine import edits
from checkpoints.random_weights import build_pipeline
from tests.kit import stock
from tests.kit.engines import difference, engine_on

CLIENTS = 8


class Cost(NamedTuple):
    prefixes: int
    forwards: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of the square outputs and references, in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    parts: Any = build_pipeline("2.1", "medium")
    bind(parts)
    requests = edits(CLIENTS, options.size, 1.0, [options.steps])
    ways: dict[str, Callable[[], Cost]] = {
        "diffusers with its cache, one by one": lambda: by_diffusers(parts, requests),
        "engine, one by one": lambda: by_engine(parts, requests, at_once=False),
        f"engine, {CLIENTS} at once": lambda: by_engine(parts, requests, at_once=True),
    }
    print(f"largest difference of latents to diffusers': {compared(parts, requests):.1e} of their deviation\n")
    rounds = [{name: way() for name, way in ways.items()} for _ in range(options.rounds)]
    print("| way | prefixes made | forwards | CPU seconds, median | times diffusers' speed |\n|---|---|---|---|---|")
    for name in ways:
        costs = [each[name] for each in rounds]
        ratios = [each[next(iter(ways))].seconds / each[name].seconds for each in rounds]
        print(
            f"| {name} | {counts(cost.prefixes for cost in costs)} | {counts(cost.forwards for cost in costs)} | "
            f"{statistics.median(cost.seconds for cost in costs):.1f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )


def counts(numbers: Any) -> str:
    return "-".join(map(str, sorted({*numbers})))


def by_diffusers(parts: Any, requests: Sequence[EditRequest]) -> Cost:
    started = time.process_time()
    for request in requests:
        picture_of(parts, request, "np")
    steps = sum(request.num_inference_steps for request in requests)
    # Its first step of an edit makes the prefix too.
    return Cost(len(requests), steps, time.process_time() - started)


def picture_of(parts: Any, request: EditRequest, output_type: str) -> Any:
    assert request.size
    return stock.run(
        parts, [Image.open(io.BytesIO(image)) for image in request.images], prompt=request.prompt,
        negative_prompt=None, true_cfg_scale=1.0, size=request.size, num_inference_steps=request.num_inference_steps,
        seed=request.seed, output_type=output_type, output_resolution=request.size[0],
    )  # fmt: skip


def by_engine(parts: Any, requests: Sequence[EditRequest], *, at_once: bool) -> Cost:
    with engine_for(parts, requests) as engine:
        started = time.process_time()
        if at_once:
            for answer in [engine.submit(request) for request in requests]:
                answer.wait(3600)
        else:
            for request in requests:
                engine.submit(request).wait(3600)
        seconds = time.process_time() - started
        return Cost(engine.worker.usage().prefixes.encodes, len(engine.worker.batches), seconds)


def compared(parts: Any, requests: Sequence[EditRequest]) -> float:
    with engine_for(parts, requests) as engine:
        for answer in [engine.submit(request) for request in requests]:
            answer.wait(3600)
        return max(
            difference(engine.final_latents[request.id], picture_of(parts, request, "latent")) for request in requests
        )


def engine_for(parts: Any, requests: Sequence[EditRequest]) -> Any:
    assert requests[0].size
    width, height = requests[0].size
    return engine_on(parts, reference_area=width * height, prefix_bytes=2**32)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
