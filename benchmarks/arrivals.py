"""First come, first served, in segments: 12 edits that arrive 50 ms apart, in one piece and in five.

    OMP_NUM_THREADS=1 PYTHONPATH=.:model_repository/qwen_image_edit/1 .venv/bin/python -m benchmarks.arrivals

The token budget holds one edit at a time, so each step serves one. Every segment is a call of its own: its pictures are
hashed and checked again, and it waits behind older edits only. Prints the order in which the edits ended and the ratio
of the mean latencies, turn by turn.
"""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from qwen_edit.engine import Engine
from qwen_edit.families.sizes import Sizes
from qwen_edit.pipeline import Pipeline
from qwen_edit.request import EditRequest
from qwen_edit.worker import PipelineWorker

from benchmarks.engine import edits
from benchmarks.inprocess import Answer, Watch
from standalone.checkpoint import build_pipeline

GAP_SECONDS = 0.05
EDITS, STEPS, SIDE, SEGMENTS, ROUNDS = 12, 10, 256, 5, 5


def main() -> None:
    pipeline = Pipeline(build_pipeline("plus", "tiny"))
    sizes = Sizes(pipeline.family, 64 * 64, pipeline.token_pixels)
    requests = edits(EDITS, SIDE, 1.0, [STEPS])
    ratios = []
    for _ in range(ROUNDS):
        means = {}
        for segments in (1, SEGMENTS):
            worker = PipelineWorker(pipeline, sizes, max_input_pixels=10**8, cache_bytes=2**28)
            engine = Engine(worker, Watch(), max_jobs=100, max_batch_tokens=1)
            ended, latencies = run_in_segments(engine, requests, segments)
            engine.close()
            means[segments] = statistics.mean(latencies)
            print(f"{segments} segments: mean {means[segments]:.3f} s, ended in the order {ended}")
        ratios.append(means[SEGMENTS] / means[1])
    print(f"ratio of mean latencies {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


def run_in_segments(engine: Engine, requests: list[EditRequest], segments: int) -> tuple[list[int], list[float]]:
    """Sends the requests 50 ms apart, each in so many segments; the order they ended in, and their latencies."""
    ended = [0.0] * len(requests)
    latencies = [0.0] * len(requests)

    def client(number: int, request: EditRequest) -> None:
        started = time.monotonic()
        ended[number] = _send(engine, request, segments)
        latencies[number] = ended[number] - started

    threads = []
    for number, request in enumerate(requests):
        arrived = replace(request, arrival=time.time())
        threads.append(threading.Thread(target=client, args=(number, arrived)))
        threads[-1].start()
        time.sleep(GAP_SECONDS)
    for thread in threads:
        thread.join()
    return sorted(range(len(requests)), key=ended.__getitem__), latencies


def _send(engine: Engine, request: EditRequest, segments: int) -> float:
    """When the engine answered the last segment, by the monotonic clock."""
    latents: npt.NDArray[np.float32] | None = None
    length = request.num_inference_steps // segments
    for start in range(0, request.num_inference_steps, length):
        answer = Answer()
        engine.submit(replace(request, start_step=start, stop_step=start + length, latents=latents), answer)
        latents = answer.wait().latents
    return answer.answered_at


if __name__ == "__main__":
    main()
