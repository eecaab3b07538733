"""The rows of a step, dealt out to transformers of the same weights, each on a device of its own.

Each has a thread that launches its forwards, so that all devices work at the same time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from qwen_edit.device_errors import is_device_error, is_out_of_memory
from qwen_edit.pipeline import Loras, Pipeline, Row

log = logging.getLogger("image_edit_server")


class Replicas:
    """Not for several threads."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        """Of pipelines that differ in their transformer and its device alone; velocities come to the first one's."""
        self._pipelines = pipelines
        self.others = pipelines[1:]
        self._short: Counter[int] = Counter()  # of memory, by the number of the replica: forwards in a row
        self._home = pipelines[0].devices.transformer
        config = pipelines[0].parts.transformer.config
        self._width: int = config.num_attention_heads * config.attention_head_dim
        self._threads = [
            ThreadPoolExecutor(1, f"replica-{number}", initializer=choose, initargs=(pipeline.devices.transformer,))
            for number, pipeline in enumerate(pipelines)
        ]

    def velocities(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """The transformer's for each row's output, (tokens, channels).

        Rows of one that failed are made once more, by another. What fails there too is raised, and at once what is an
        error of a device, or a second shortage of memory in a row, so that whoever calls asks for less.
        """
        hands = deal([cost(len(row.tokens) + len(row.text), self._width) for row in rows], len(self._pipelines))
        dealt = {number: [rows[each] for each in hand] for number, hand in enumerate(hands) if hand}
        begun = {number: self._threads[number].submit(self._tried, number, its) for number, its in dealt.items()}
        made = {number: trying.result() for number, trying in begun.items()}  # all, before anything is raised
        failed = {number: result for number, result in made.items() if isinstance(result, Exception)}
        for error in failed.values():
            if is_device_error(error):
                raise error
        short = [number for number, error in failed.items() if is_out_of_memory(error)]
        self._short = Counter({number: self._short[number] + 1 for number in short})
        found: dict[int, torch.Tensor] = {}
        for number, its in dealt.items():
            result = made[number]
            if isinstance(result, Exception):
                if self._short[number] > 1:
                    raise result
                result = self._made_elsewhere(number, failed, its)
            found.update(zip(hands[number], result, strict=True))
        return [found[each] for each in range(len(rows))]

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown()

    def _made_elsewhere(self, number: int, failed: Collection[int], rows: Sequence[Row]) -> list[torch.Tensor]:
        others = sorted({*range(len(self._pipelines))} - {number}, key=lambda other: other in failed)
        log.warning("its %d rows are made by replica %d", len(rows), others[0])
        trying = self._threads[others[0]].submit(self._tried, others[0], rows)
        result: list[torch.Tensor] | Exception = trying.result()
        if isinstance(result, Exception):
            raise result
        return result

    def _tried(self, number: int, rows: Sequence[Row]) -> list[torch.Tensor] | Exception:
        """An error comes without its traceback, which would keep all that the failed forward has allocated."""
        try:
            return self._made(number, rows)
        except Exception as error:
            short = is_out_of_memory(error)
            log.warning("replica %d %s", number, "is out of memory" if short else "failed", exc_info=not short)
            failure = error
        return failure.with_traceback(None)

    @torch.inference_mode()
    def _made(self, number: int, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Copies between two GPUs wait for both, and the host for neither."""
        pipeline = self._pipelines[number]
        there = pipeline.devices.transformer
        moved = [
            row._replace(tokens=row.tokens.to(there), text=row.text.to(there), loras=loras_of(row, number))
            for row in rows
        ]
        return [velocity.to(self._home) for velocity in pipeline.velocities(moved)]


def loras_of(row: Row, number: int) -> Loras:
    """As the transformer of this number has them, of which the first is 0."""
    return tuple(replace(lora, layers=lora.elsewhere[number - 1]) for lora in row.loras) if number else row.loras


def choose(device: torch.device) -> None:
    """For the thread that calls it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def cost(tokens: int, width: int) -> int:
    """Of a row, in multiplications as a block does them: layers see each token, attention each pair."""
    return tokens * (6 * width + tokens)


def deal(costs: Sequence[int], hands: int) -> list[list[int]]:
    """The numbers of what costs so much, for each hand: the dearest first, each to whom least was dealt."""
    dealt: list[list[int]] = [[] for _ in range(hands)]
    sums = [0] * hands
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        least = sums.index(min(sums))
        dealt[least].append(number)
        sums[least] += costs[number]
    return [sorted(numbers) for numbers in dealt]
