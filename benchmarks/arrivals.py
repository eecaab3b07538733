"""First come, first served, in segments: 12 edits that arrive 50 ms apart, in one piece and in five.

    make bench-arrivals

The token budget holds one edit at a time, so each step serves one. Every segment is a call of its own: its pictures are
hashed and checked again, and it waits behind older edits only. Prints the order in which the edits ended and the ratio
of the mean latencies, turn by turn.
"""

from __future__ import annotations

import statistics

from qwen_edit.engine import Engine
from qwen_edit.families.sizes import Sizes
from qwen_edit.pictures.decoders import Decoders
from qwen_edit.pipeline import Pipeline
from qwen_edit.worker import PipelineWorker

from benchmarks.engine import edits
from checkpoints.random_weights import build_pipeline
from tests.kit.in_process import Watch, run_in_segments

EDITS, STEPS, SIDE, SEGMENTS, ROUNDS = 12, 10, 256, 5, 5


def main() -> None:
    pipeline = Pipeline(build_pipeline("plus", "tiny"))
    sizes = Sizes(pipeline.family, 64 * 64, pipeline.token_pixels)
    requests = edits(EDITS, SIDE, 1.0, [STEPS])
    ratios = []
    for _ in range(ROUNDS):
        means = {}
        for segments in (1, SEGMENTS):
            worker = PipelineWorker(pipeline, sizes, Decoders(10**8, 10**8), cache_bytes=2**28)
            engine = Engine(worker, Watch(), max_jobs=100, max_batch_tokens=1, stretch=0.0)
            ended, latencies = run_in_segments(engine, requests, segments)
            engine.close()
            means[segments] = statistics.mean(latencies)
            print(f"{segments} segments: mean {means[segments]:.3f} s, ended in the order {ended}")
        ratios.append(means[SEGMENTS] / means[1])
    print(f"ratio of mean latencies {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
