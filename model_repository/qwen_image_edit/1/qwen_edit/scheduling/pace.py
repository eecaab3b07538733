"""How fast the engine gets on, learned from what it did: what an edit will take, and when to come again."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from qwen_edit.forward.cost import ForwardCost

RETRY_SECONDS = (1, 60)  # within these, every SDK obeys
NOMINAL_SECONDS = 2e-5  # of a token's step, as long as none was made: a large GPU's
RECENT = 64  # forwards, or encodings, or decodings
OUTLIER = 4.0  # times as long as foreseen: what is more happened once, a compilation for one


class Stepping(Protocol):
    """A job as the pace sees it."""

    @property
    def row_tokens(self) -> Sequence[int]: ...

    @property
    def steps_left(self) -> int: ...


class PerToken:
    """Seconds a token, of what was done lately; the first time of all tells nothing of the others."""

    def __init__(self) -> None:
        self._observed: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._warm = False
        self.seconds = 0.0

    def observe(self, row_tokens: Sequence[int], seconds: float) -> None:
        if not self._warm:
            self._warm = True
            return
        self._observed.append((sum(row_tokens), seconds))
        tokens, taken = (sum(column) for column in zip(*self._observed, strict=True))
        self.seconds = taken / tokens


class Pace:
    """Seconds, by the image and text tokens of a forward's rows, or of an edit's. For several threads."""

    def __init__(self) -> None:
        self._cost = ForwardCost()
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)  # foreseen, taken
        self._lately = 1.0
        self._encoding = PerToken()
        self._decoding = PerToken()
        self._away: deque[float] = deque([0.0], maxlen=RECENT)
        self._guard = threading.Lock()  # guards _cost, _away

    @property
    def known(self) -> bool:
        return bool(self._recent)

    def stepped(self, jobs: Iterable[Stepping], seconds: float) -> None:
        """One forward moved these jobs one step on."""
        row_tokens = [tokens for job in jobs for tokens in job.row_tokens]
        with self._guard:
            foreseen = self._cost.seconds(row_tokens) or seconds
            self._cost.observe(row_tokens, seconds)
        self._recent.append((foreseen, min(seconds, OUTLIER * foreseen)))
        everything, taken = (sum(column) for column in zip(*self._recent, strict=True))
        self._lately = taken / everything if everything else 1.0

    def encoded(self, row_tokens: Sequence[int], seconds: float) -> None:
        self._encoding.observe(row_tokens, seconds)

    def decoded(self, row_tokens: Sequence[int], seconds: float) -> None:
        self._decoding.observe(row_tokens, seconds)

    def step(self, row_tokens: Sequence[int]) -> float:
        """Of a forward. The cost of its tokens is learned from long ago, how things go from the last ones."""
        if not self.known:
            return NOMINAL_SECONDS * sum(row_tokens)
        with self._guard:
            return self._lately * self._cost.seconds(row_tokens)

    def encode(self, row_tokens: Sequence[int]) -> float:
        """Of a picture and a text that were not seen before."""
        return self._encoding.seconds * sum(row_tokens)

    def decode(self, row_tokens: Sequence[int]) -> float:
        return self._decoding.seconds * sum(row_tokens)

    def returned(self, seconds: float) -> None:
        """An edit's next segment came so long after the answer of the one before."""
        with self._guard:
            self._away.append(seconds)

    def away(self) -> float:
        with self._guard:
            return sum(self._away) / len(self._away)

    def work(self, row_tokens: Sequence[int], steps: int) -> float:
        """Of a whole edit that has the engine to itself."""
        return self.encode(row_tokens) + steps * self.step(row_tokens) + self.decode(row_tokens)

    def retry_seconds(self, jobs: Collection[Stepping]) -> int:
        """When half of what is left of these jobs will be done: enough places are free then, and there is work left."""
        low, high = RETRY_SECONDS
        seconds = sum(self.step(job.row_tokens) * job.steps_left for job in jobs) / 2
        return min(max(math.ceil(seconds), low), high)
