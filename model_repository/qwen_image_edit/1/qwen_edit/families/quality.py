"""What a caller's word for quality stands for: a share of the model's own steps, and a preset of the step cache.

Imports nothing heavy: docs/api.md's table is made from this one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from qwen_edit.errors import BadRequest, shown
from qwen_edit.settings import AUTO, MILD, OFF

MOST_DISTILLED = 8  # steps of a model that was distilled to its own number: with fewer or more it is no better

# Word → share of the model's own steps, preset of the step cache. In order of their cost: with 40 steps, 13, 26, 40 and
# 60 forwards.
QUALITIES = {
    "low": (Fraction(1, 2), MILD),
    "medium": (Fraction(1), MILD),
    "high": (Fraction(1), OFF),
    "max": (Fraction(3, 2), OFF),
}


@dataclass(frozen=True)
class Quality:
    steps: int
    cache: str
    word: str = AUTO  # whatever the model's own are

    def made(self, steps: int, cache: str) -> str:
        """The word, where an edit of so many steps with this preset is what it stands for; else empty."""
        return self.word if self.word != AUTO and (steps, cache) == (self.steps, self.cache) else ""


def quality_of(word: str, own: Quality, most_steps: int) -> Quality:
    """`own`: the model's, which is also what every word stands for where there is nothing to choose."""
    if word == AUTO or own.steps <= MOST_DISTILLED:
        return own
    share, cache = QUALITIES[word]
    return Quality(min(math.ceil(share * own.steps), max(own.steps, most_steps)), cache, word)


def checked(word: object) -> str:
    """Raises BadRequest."""
    allowed = (AUTO, *QUALITIES)
    if not isinstance(word, str) or word not in allowed:
        raise BadRequest("quality", f"{shown(word)}: one of {', '.join(allowed)} is allowed")
    return word
