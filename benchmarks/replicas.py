"""The rows of a step on each of two transformers, against one: counted, and in seconds, on the CPU.

    make bench-replicas                                             # the counts, on a tiny checkpoint
    make bench-replicas ARGS="--checkpoint medium --rounds 3"       # the seconds

An edit with guidance alone, eight with guidance at once, and eight of several sizes, some without;
in turns on one transformer and on two, each with one CPU thread of its own. First each edit's latents are compared.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from qwen_edit.forward.replicas import Replicas, cost
from qwen_edit.loading.assembly import replicas_of
from qwen_edit.request import EditRequest
from qwen_edit.settings import Loading

from benchmarks.engine import edits
from checkpoints.random_weights import build_pipeline
from tests.kit.engines import difference, engine_on

CPU = torch.device("cpu")
SIDES = (128, 64, 192, 96)  # pixels, of edits that differ


class Count:
    """What the forwards of one transformer had to do."""

    def __init__(self, transformer: Any) -> None:
        self._width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        self.rows: list[int] = []  # of each forward
        self.cost = 0
        transformer.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, given: Any, named: dict[str, Any]) -> None:
        self.rows.append(len(named["rows"]))
        self.cost += sum(cost(len(row.tokens) + len(row.text), self._width) for row in named["rows"])


class Run(NamedTuple):
    steps: int
    rows: list[int]  # of each transformer
    costs: list[int]
    seconds: float
    latents: dict[str, npt.NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", choices=("tiny", "medium"), default="tiny")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    parts: Any = build_pipeline("plus-2511", options.checkpoint)
    guided = edits(8, 128, 4.0, [options.steps])
    mixed = [
        replace(each, size=(SIDES[number % 4], 128), true_cfg_scale=4.0 if number % 3 else 1.0)
        for number, each in enumerate(guided)
    ]
    crowds = {"1 with guidance": guided[:1], "8 with guidance": guided, "8 of several sizes": mixed}
    print("| edits | rows a step on each | work on each | off by | seconds on one, on two: times the speed |")
    print("|---|---|---|---|---|")
    for name, crowd in crowds.items():
        rounds = [(run(parts, crowd, 1), run(parts, crowd, 2)) for _ in range(options.rounds)]
        one, two = rounds[0]
        off = max(difference(two.latents[each], one.latents[each]) for each in one.latents)
        ratios = [alone.seconds / both.seconds for alone, both in rounds]
        alone, both = (statistics.median(each.seconds for each in way) for way in zip(*rounds, strict=True))
        print(
            f"| {name} | {', '.join(f'{rows / two.steps:.2f}' for rows in two.rows)} | "
            f"{', '.join(f'{share / sum(two.costs):.1%}' for share in two.costs)} | {off:.1e} | "
            f"{alone:.2f}, {both:.2f}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |",
            flush=True,
        )


def run(parts: Any, crowd: Sequence[EditRequest], transformers: int) -> Run:
    own = copy.copy(parts)
    own.transformer = copy.deepcopy(parts.transformer)
    pipelines = [pipeline for pipeline, _ in replicas_of(own, Loading(), [CPU] * max(2, transformers))][:transformers]
    counts = [Count(pipeline.parts.transformer) for pipeline in pipelines]
    with engine_on(own, reference_area=128 * 128, replicas=Replicas(pipelines)) as engine:
        for answer in [engine.submit(replace(request, arrival=time.monotonic())) for request in crowd]:
            answer.wait(3600)  # encoded from here on
        for count in counts:
            count.rows.clear()
            count.cost = 0
        before = len(engine.watch.batches)
        started = time.monotonic()
        for answer in [engine.submit(replace(request, arrival=time.monotonic())) for request in crowd]:
            answer.wait(3600)
        seconds = time.monotonic() - started
        rows = [sum(count.rows) for count in counts]
        steps = len(engine.watch.batches) - before
        return Run(steps, rows, [count.cost for count in counts], seconds, dict(engine.final_latents))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
