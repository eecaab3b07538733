"""The course of the transformer's training: what it sees, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

Cells = tuple[int, int]  # width, height in tokens


@dataclass(frozen=True)
class Stage:
    steps: int
    batch: int
    shapes: tuple[Cells, ...]  # of the references
    rates: tuple[float, float]  # of the learning rate, from the first step to the last


SEED = 4
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 50
# Shares of: one reference, one whose shape is not the output's, two references.
TASKS = (0.72, 0.05, 0.23)
# Twice what is hardest: colours that are left show.
EDITS_SEEN = ("unchanged", *2 * ("grayscale",), "inverted", "red", "green", "blue", "brighter", "darker", "sepia")
WORDINGS = 100  # of each edit, for one reference and for two

# Small pictures give the most prompts a step; large ones are what is served.
STAGES = (
    Stage(9000, 16, ((8, 8), (8, 8), (10, 6), (6, 10)), (1.0, 0.7)),
    Stage(6500, 7, ((12, 12), (16, 12), (12, 16)), (0.7, 0.3)),
    Stage(3000, 3, ((20, 20), (24, 16), (16, 24), (32, 20), (32, 32), (40, 26)), (0.3, 0.01)),
)
