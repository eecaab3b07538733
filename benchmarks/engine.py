"""The engine against stock diffusers: the same list of edits, in one process, in one run.

    make bench-engine ARGS="--checkpoint medium --sizes 64 --concurrency 1,8 --out engine.json"

Every edit has a picture, a prompt, a seed and a number of steps of its own, so the conditioning cache gives the engine
nothing. References are encoded at the area of the output (`--reference-area` to change it). Stock runs the edits one by
one; the engine runs them at each concurrency with that many clients, each sending its next edit when the last one is
answered. All are run in turn, `--rounds` times, and ratios are taken within a round. Below the table stands what one
row costs in a forward of 1, 2, 4, … rows: no batching of steps can gain more than the transformer itself does.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image
from qwen_edit.engine import Engine
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward import ragged
from qwen_edit.forward.attention import varlen_operator
from qwen_edit.forward.block import Paths
from qwen_edit.pictures.decoders import Decoders
from qwen_edit.pipeline import Pipeline
from qwen_edit.request import EditRequest
from qwen_edit.worker import PipelineWorker

from benchmarks import forwards
from checkpoints.random_weights import build_pipeline
from tests.kit import stock
from tests.kit.in_process import Answer, Watch

PICTURES = Path(__file__).resolve().parents[1] / "tests" / "data"
PROMPTS = ("make it black and white", "put snow on the ground", "paint the sky red at dusk", "remove the background",
           "turn it into a pencil drawing", "add a small hat", "make it look old", "brighten the scene")  # fmt: skip


@dataclass
class Run:
    """One pass over the list of edits."""

    seconds: float
    latencies: list[float]
    rows_per_step: float | None = None


def main() -> None:
    options = parse_options()
    device = torch.device(options.device)
    parts = build_pipeline(options.family, options.checkpoint.removesuffix("-random"), device=device)
    ragged.bind(parts.transformer, Paths(varlen=varlen_operator(device)))
    pipeline = Pipeline(parts)
    results = [
        measure(pipeline, size, scale, options) for size, scale in itertools.product(options.sizes, options.guidance)
    ]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    report = {
        "machine": machine, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "checkpoint": options.checkpoint, "family": options.family,
        "edits": options.edits, "rounds": options.rounds, "max_batch_tokens": options.max_batch_tokens,
        "results": results,
    }  # fmt: skip
    print_table(report)
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=1))


def parse_options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", choices=("tiny", "medium", "full-random"), default="tiny")
    parser.add_argument("--family", choices=("edit", "plus", "plus-2511"), default="plus")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=numbers, default=[64], help="sides of the square outputs, in pixels")
    parser.add_argument("--reference-area", type=int, help="pixels; the output's own by default")
    parser.add_argument("--guidance", type=lambda text: [float(part) for part in text.split(",")], default=[1.0, 4.0])
    parser.add_argument("--concurrency", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--edits", type=int, default=16)
    parser.add_argument("--steps", type=numbers, default=[4, 6, 8, 12], help="given to the edits in turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-batch-tokens", type=int, default=16_384)
    parser.add_argument("--out", help="where to write the JSON")
    return parser.parse_args()


def measure(pipeline: Pipeline, size: int, scale: float, options: argparse.Namespace) -> dict[str, Any]:
    area = options.reference_area or size * size
    sizes = Sizes(pipeline.family, max(area, 64 * 64), pipeline.token_pixels)
    requests = edits(options.edits, size, scale, options.steps)
    ways: dict[str, Callable[[list[EditRequest]], Run]] = {"stock": lambda sent: run_stock(pipeline.parts, sizes, sent)}
    for clients in options.concurrency:
        ways[f"engine, {clients}"] = partial(
            run_engine, pipeline, sizes, clients=clients, budget=options.max_batch_tokens
        )
    for way in ways.values():
        way(requests[:2])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    rounds = [{name: way(requests) for name, way in ways.items()} for _ in range(options.rounds)]
    return {
        "size": size, "true_cfg_scale": scale, "reference_area": sizes.reference_area,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "seconds_per_row": {rows: seconds_per_row(pipeline, sizes, size, rows) for rows in (1, 2, 4, 8, 16)},
        "ways": {name: summary([r[name] for r in rounds], [r["stock"] for r in rounds]) for name in ways},
    }  # fmt: skip


def seconds_per_row(pipeline: Pipeline, sizes: Sizes, size: int, rows: int) -> float:
    """Shortest of six forwards of the transformer alone, by its rows; 50 text tokens."""
    crowd = forwards.crowd(pipeline, sizes, size, [50] * rows)

    @torch.inference_mode()
    def forward_seconds() -> float:
        started = time.perf_counter()
        torch.cat(pipeline.velocities(crowd)).cpu()
        return time.perf_counter() - started

    return min(forward_seconds() for _ in range(6)) / rows


def edits(count: int, size: int, scale: float, steps: list[int]) -> list[EditRequest]:
    names = sorted(PICTURES.glob("*.jpg"))
    return [
        EditRequest(
            id=f"{number}", edit_id=f"{number}", images=(picture(names[number % len(names)], number),), mask=None,
            prompt=f"{PROMPTS[number % len(PROMPTS)]} {number}", negative_prompt=f"blurry {number}", size=(size, size),
            num_inference_steps=steps[number % len(steps)], true_cfg_scale=scale, seed=number, start_step=0,
            stop_step=steps[number % len(steps)], latents=None, preview=0, arrival=0.0,
        )
        for number in range(count)
    ]  # fmt: skip


def picture(path: Path, number: int) -> bytes:
    """A square cut of its own for every edit."""
    whole = Image.open(path)
    side = min(whole.size) - 2 * (number % 32)
    file = io.BytesIO()
    whole.crop((number % 7, 0, number % 7 + side, side)).save(file, "PNG")
    return file.getvalue()


def run_stock(pipeline: Any, sizes: Sizes, requests: list[EditRequest]) -> Run:
    latencies = []
    with stock.areas(sizes):
        for request in requests:
            started = time.perf_counter()
            stock.run(
                pipeline, [Image.open(io.BytesIO(image)).convert("RGB") for image in request.images],
                prompt=request.prompt, negative_prompt=request.negative_prompt if request.guided else None,
                true_cfg_scale=request.true_cfg_scale, size=request.size, seed=request.seed,
                num_inference_steps=request.num_inference_steps, output_type="np",
            )  # fmt: skip
            latencies.append(time.perf_counter() - started)
    return Run(sum(latencies), latencies)


def run_engine(pipeline: Pipeline, sizes: Sizes, requests: list[EditRequest], clients: int, budget: int) -> Run:
    watch = Watch()
    worker = PipelineWorker(pipeline, sizes, Decoders(10**8, 10**8), cache_bytes=0, mrope=False)
    engine = Engine(worker, watch, max_jobs=1000, max_batch_tokens=budget)
    waiting = iter(requests)
    latencies: list[float] = []

    def client() -> None:
        for request in waiting:
            started, answer = time.perf_counter(), Answer()
            engine.submit(request, answer)
            answer.wait(3600)
            latencies.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    engine.close()
    return Run(seconds, latencies, statistics.mean(rows for _, rows in watch.batches))


def summary(runs: list[Run], stock_runs: list[Run]) -> dict[str, Any]:
    edits_in_run = len(runs[0].latencies)
    latencies = sorted(itertools.chain.from_iterable(run.latencies for run in runs))
    ratios = [reference.seconds / run.seconds for run, reference in zip(runs, stock_runs, strict=True)]
    rows = [run.rows_per_step for run in runs if run.rows_per_step is not None]
    return {
        "edits_per_second": edits_in_run / statistics.median(run.seconds for run in runs),
        "throughput_against_stock": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "mean_latency": statistics.mean(latencies),
        "p95_latency": latencies[int(0.95 * (len(latencies) - 1))],
        "rows_per_step": statistics.mean(rows) if rows else None,
    }


def print_table(report: dict[str, Any]) -> None:
    print(f"{report['machine']}, {report['checkpoint']} {report['family']}, torch {report['torch']}, "
          f"{report['edits']} edits, {report['rounds']} rounds")  # fmt: skip
    print("| size | guidance | way, clients | edits/s | × stock (min–max) | mean s | p95 s | rows a step |")
    print("|---|---|---|---|---|---|---|---|")
    for result in report["results"]:
        for name, way in result["ways"].items():
            ratio = way["throughput_against_stock"]
            rows = f"{way['rows_per_step']:.1f}" if way["rows_per_step"] else ""
            print(
                f"| {result['size']} | {result['true_cfg_scale']:g} | {name} | {way['edits_per_second']:.3f} | "
                f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f}) | {way['mean_latency']:.2f} | "
                f"{way['p95_latency']:.2f} | {rows} |"
            )
        if result["peak_bytes"]:
            print(f"\nPeak GPU memory {result['peak_bytes'] / 2**30:.1f} GiB")
        per_row = ", ".join(f"{rows}: {seconds:.4f}" for rows, seconds in result["seconds_per_row"].items())
        print(f"\nSeconds a row at {result['size']} px, by rows in the forward: {per_row}\n")


if __name__ == "__main__":
    main()
