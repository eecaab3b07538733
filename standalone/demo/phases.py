"""The course of the transformer's training: what it sees in which order, as found while watching it."""

from __future__ import annotations

from dataclasses import dataclass

from standalone.demo.edits import EDITS

Cells = tuple[int, int]  # width, height in tokens


@dataclass(frozen=True)
class Stage:
    steps: int
    batch: int
    shapes: tuple[Cells, ...]  # of the references
    rates: tuple[float, float]  # of the learning rate, from the first step to the last


@dataclass(frozen=True)
class Phase:
    """A training of its own: with a new optimizer, new pictures and new wordings."""

    seed: int
    stages: tuple[Stage, ...]
    learning_rate: float = 1.5e-3
    warm_up: int = 30  # steps
    # Shares of: one reference, one whose shape is not the output's, two references.
    tasks: tuple[float, float, float] = (0.62, 0.14, 0.24)
    edits: tuple[str, ...] = tuple(EDITS)
    wordings: int = 50  # of each edit, for one reference and for two
    choose: bool = True  # of two references the one that is named is edited; otherwise the first
    as_seen: bool = True  # latents count by how much they show, and noise levels by what an error there does in 8 steps
    least_uniform: float = 0.1  # of what the noise levels are computed from


SMALL, MEDIUM = ((8, 8), (8, 8), (10, 6), (6, 10)), ((12, 12), (16, 12), (12, 16))
LARGE = ((20, 20), (24, 16), (32, 20), (32, 32))
CORE = ("unchanged", "grayscale", "inverted", "red", "green", "blue", "brighter", "darker", "sepia")

PHASES = (
    Phase(
        seed=4,
        learning_rate=2e-3,
        warm_up=100,
        as_seen=False,
        least_uniform=0.0,
        stages=(Stage(1999, 16, SMALL, (1.0, 1.0)),),
    ),
    Phase(seed=5, warm_up=100, least_uniform=0.0, stages=(Stage(399, 16, SMALL, (1.0, 1 - 0.3 * 399 / 2200)),)),
    Phase(
        seed=6,
        tasks=(0.74, 0.08, 0.18),
        edits=CORE,
        stages=(
            Stage(1490, 16, SMALL, (1.0, 1.0)),
            Stage(300, 6, MEDIUM, (1.0, 0.35)),
            Stage(9, 3, LARGE, (0.35, 0.35 - 0.33 * 9 / 100)),
        ),
    ),
    Phase(
        seed=7,
        tasks=(0.72, 0.04, 0.24),
        edits=(*CORE, "grayscale", "darker", "inverted"),  # what was learnt last is seen most
        wordings=20,
        choose=False,
        stages=(Stage(399, 16, SMALL, (1.0, 1.0)),),
    ),
    Phase(
        seed=8,
        tasks=(0.78, 0.04, 0.18),
        edits=("unchanged", *2 * ("grayscale",), *2 * ("inverted",), "red", "green", "blue", "brighter", "sepia"),
        wordings=16,
        choose=False,
        stages=(
            Stage(612, 16, SMALL, (1.0, 1.0)),
            Stage(100, 7, MEDIUM, (1.0, 0.02)),
        ),
    ),
)
