"""The engine in this process, without Triton: a meter for what it tells, and replies that can be waited for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from qwen_edit.errors import EditError
from qwen_edit.job import Outcome


@dataclass
class Watch:
    """Metrics that remember."""

    edits: Counter[str] = field(default_factory=Counter)
    batches: list[tuple[int, int]] = field(default_factory=list)  # (jobs, rows) of every step
    cache_counts: tuple[int, int] = (0, 0)  # hits, misses
    held: tuple[int, int] = (0, 0)  # waiting, running

    def edit(self, outcome: str) -> None:
        self.edits[outcome] += 1

    def step(self, jobs: int, rows: int) -> None:
        self.batches.append((jobs, rows))

    def seconds(self, stage: str, seconds: float) -> None:
        pass

    def jobs(self, waiting: int, running: int) -> None:
        self.held = waiting, running

    def cache(self, hits: int, misses: int, size: int) -> None:
        self.cache_counts = hits, misses

    def gpu_peak(self, size: int) -> None:
        pass

    def heartbeat(self, unix_seconds: float) -> None:
        pass


@dataclass
class Answer:
    """A reply that keeps what it was given."""

    outcome_given: Outcome | None = None
    error_given: EditError | None = None
    answered_at: float = 0.0
    cancel: bool = False
    _done: threading.Event = field(default_factory=threading.Event)

    def outcome(self, outcome: Outcome) -> None:
        assert not self._done.is_set()
        self.outcome_given = outcome
        self._finish()

    def error(self, error: EditError) -> None:
        assert not self._done.is_set()
        self.error_given = error
        self._finish()

    def cancelled(self) -> bool:
        return self.cancel

    def _finish(self) -> None:
        self.answered_at = time.monotonic()
        self._done.set()

    def wait(self, seconds: float = 60.0) -> Outcome:
        """The outcome; raises the edit's error."""
        assert self._done.wait(seconds), "the engine never answered"
        if self.error_given is not None:
            raise self.error_given
        assert self.outcome_given is not None
        return self.outcome_given
