"""What the engine tells about itself; `model.py` makes Triton metrics of it."""

from __future__ import annotations

from typing import Protocol

OUTCOMES = ("finished", "failed", "cancelled", "refused")
STAGES = ("queue", "encode", "denoise", "decode")
STATES = ("waiting", "running")


class Metrics(Protocol):
    def edit(self, outcome: str) -> None:
        """One more edit ended in `outcome`; a run that stopped early has not ended."""

    def picture(self) -> None:
        """One more picture or mask was decoded, or refused."""

    def step(self, jobs: int, rows: int) -> None:
        """One forward step was made for `jobs` jobs in `rows` rows."""

    def seconds(self, stage: str, seconds: float) -> None: ...

    def jobs(self, waiting: int, running: int) -> None: ...

    def away(self, edits: int) -> None:
        """So many are between two of their segments, of which the next may be on its way."""

    def cache(self, hits: int, misses: int, size: int) -> None:
        """Totals since the start, and bytes held."""

    def gpu_peak(self, size: int) -> None:
        """Most bytes of GPU memory ever allocated."""

    def heartbeat(self, unix_seconds: float) -> None: ...
