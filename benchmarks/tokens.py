"""How many tokens the transformer works on for each step that it delivers: rows end to end, and padded rows as before.

    make bench-tokens

Nothing is computed: the same edits arrive at two engines that cost a fixed time per token, each of which makes forwards
by its own rule until all edits are done. `end to end` is this release's (qwen_edit/scheduling/schedule.py). `padded` is
that of the release before (commit dea197e: schedule.py and `Denoiser._velocities`): only rows of one geometry share a
forward, each is padded to the longest text in it, and rows of at least 4096 image tokens only share one where their
texts are equally long. A token counts for each block that works on it: the last leaves out references and texts now.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from qwen_edit.scheduling.schedule import next_batch

BLOCKS = 60
TEMPLATE = 14  # tokens around a prompt
SEEN_SIDE, SEEN_PATCH = 384, 28  # pixels: a reference as the text encoder sees it at most, and what is a token of it
UNPADDED_ROW_TOKENS = 4096  # the former setting's default
BUDGET = 16_384  # tokens, MAX_BATCH_TOKENS
LOAD = 0.8  # of what an engine without any padding could do
SHORTEST, LONGEST = 8, (400, 1000)  # tokens of prompts, whose magnitudes are equally likely
PLAIN, GUIDED = 8, 40  # steps; every second edit is guided


@dataclass(eq=False)
class Edit:
    arrival: float  # in tokens that could have been worked on since the start
    output: int  # tokens
    reference: int
    texts: tuple[int, ...]  # tokens of each row's
    steps_left: int

    @property
    def geometry(self) -> tuple[int, int]:
        return self.output, self.reference

    @property
    def image_tokens(self) -> int:
        return self.output + self.reference

    @property
    def row_tokens(self) -> list[int]:
        return [self.image_tokens + text for text in self.texts]

    @property
    def alone(self) -> bool:
        return False


class Count(NamedTuple):
    forwards: float
    tokens: float  # worked on, the mean of all blocks


Rule = Callable[[Sequence[Edit]], tuple[list[Edit], Count]]  # the next of those that wait, and what their step takes


def end_to_end(edits: Sequence[Edit]) -> tuple[list[Edit], Count]:
    batch = next_batch(edits, BUDGET, lambda edit: edit.arrival)
    whole = sum(sum(edit.row_tokens) for edit in batch)
    outputs = sum(len(edit.texts) * edit.output for edit in batch)
    return batch, Count(1, ((BLOCKS - 1) * whole + outputs) / BLOCKS)


def padded(edits: Sequence[Edit]) -> tuple[list[Edit], Count]:
    batch: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: edit.arrival):
        joins = batch and edit.geometry == batch[0].geometry and padded_tokens([*batch, edit]) <= BUDGET
        if not batch or joins:
            batch.append(edit)
    if batch[0].image_tokens < UNPADDED_ROW_TOKENS:
        return batch, Count(1, padded_tokens(batch))
    lengths = Counter(itertools.chain.from_iterable(edit.texts for edit in batch))
    tokens = sum(rows * (batch[0].image_tokens + length) for length, rows in lengths.items())
    return batch, Count(len(lengths), tokens)


def padded_tokens(batch: Sequence[Edit]) -> int:
    texts = [text for edit in batch for text in edit.texts]
    return len(texts) * (batch[0].image_tokens + max(texts))


def replay(edits: Sequence[Edit], rule: Rule) -> tuple[Count, int]:
    """What it took to end all of them, and the steps that were delivered."""
    waiting: list[Edit] = []
    coming = list(edits)
    now, forwards, tokens, steps = 0.0, 0.0, 0.0, 0
    while waiting or coming:
        now = now if waiting else max(now, coming[0].arrival)
        while coming and coming[0].arrival <= now:
            waiting.append(coming.pop(0))
        batch, count = rule(waiting)
        forwards, tokens, steps = forwards + count.forwards, tokens + count.tokens, steps + len(batch)
        now += count.tokens
        for edit in batch:
            edit.steps_left -= 1
        waiting = [edit for edit in waiting if edit.steps_left]
    return Count(forwards, tokens), steps


def traffic(sides: Sequence[int], reference_side: int | None, longest: int, count: int, seed: int) -> list[Edit]:
    """One reference each, of `reference_side` or of the output's own."""
    chance, edits, arrival = random.Random(seed), [], 0.0
    for number in range(count):
        side = chance.choice(sides)
        reference = reference_side or side
        around = TEMPLATE + round(min(reference, SEEN_SIDE) / SEEN_PATCH) ** 2
        prompt = around + round(SHORTEST * (longest / SHORTEST) ** chance.random())
        guided = number % 2 == 1
        texts = (prompt, around + 1) if guided else (prompt,)
        edit = Edit(arrival, patches(side), patches(reference), texts, GUIDED if guided else PLAIN)
        arrival += chance.expovariate(1.0) * sum(edit.row_tokens) * edit.steps_left / LOAD
        edits.append(edit)
    return edits


def patches(side: int) -> int:
    return (side // 16) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("| sizes | references | prompts | tokens a step, padded | end to end | times fewer |", end="")
    print(" forwards a step, padded | end to end |\n|---|---|---|---|---|---|---|---|")
    for sides, reference, longest in itertools.product([(256, 384, 512), (512, 768, 1024)], [None, 1024], LONGEST):
        edits = partial(traffic, sides, reference, longest, options.edits)
        before, now = (a_step(rule, edits, options.seeds) for rule in (padded, end_to_end))
        print(
            f"| {', '.join(f'{side}²' for side in sides)} | {f'{reference}²' if reference else 'as the output'} | "
            f"{SHORTEST} to {longest} | {before.tokens:.0f} | {now.tokens:.0f} | {before.tokens / now.tokens:.2f} | "
            f"{before.forwards:.2f} | {now.forwards:.2f} |"
        )


def a_step(rule: Rule, edits: Callable[[int], list[Edit]], seeds: int) -> Count:
    """Means of all steps that were delivered."""
    runs = [replay(edits(seed), rule) for seed in range(seeds)]
    delivered = sum(steps for _, steps in runs)
    return Count(*(sum(each) / delivered for each in zip(*(count for count, _ in runs), strict=True)))


if __name__ == "__main__":
    main()
