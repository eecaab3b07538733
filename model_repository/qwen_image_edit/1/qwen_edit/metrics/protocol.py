"""What the engine tells about itself."""

from __future__ import annotations

from typing import NamedTuple, Protocol

OUTCOMES = ("finished", "failed", "cancelled", "refused")
STAGES = ("queue", "encode", "denoise", "decode")
STATES = ("waiting", "running")


PREFIX_COUNTS = {
    "hits": "Edits, or segments of them, that found their prefix",
    "encodes": "Prefixes made",
    "recomputations": "Prefixes made again, which others had displaced",
}


class PrefixUsage(NamedTuple):
    """Of Qwen-Image-2.1's prefixes: PREFIX_COUNTS since the start, and what is held."""

    hits: int
    encodes: int  # all of them
    recomputations: int
    bytes: int


NO_PREFIXES = PrefixUsage(0, 0, 0, 0)


class Metrics(Protocol):
    def edit(self, outcome: str) -> None:
        """One more edit ended in `outcome`; a run that stopped early has not ended."""

    def picture(self) -> None:
        """One more picture or mask was decoded, or refused."""

    def began(self, queue_seconds: float, encode_seconds: float, *, new: bool) -> None:
        """A run of an edit is encoded; `new` unless the edit goes on from an earlier run."""

    def first_step(self, seconds: float) -> None:
        """A new edit has made a step, so many seconds after the engine took it."""

    def step(self, jobs: int, rows: int) -> None:
        """One forward step was made for `jobs` jobs in `rows` rows."""

    def ended(self, decode_seconds: float, *, spared: int) -> None:
        """A run of an edit is done, so many of its steps without a forward, by the step cache."""

    def seconds(self, stage: str, seconds: float) -> None: ...

    def jobs(self, waiting: int, running: int) -> None: ...

    def away(self, edits: int) -> None:
        """So many are between two of their segments, of which the next may be on its way."""

    def cache(self, hits: int, misses: int, size: int) -> None:
        """Totals since the start, and bytes held."""

    def prefixes(self, usage: PrefixUsage) -> None: ...

    def gpu_peak(self, size: int) -> None:
        """Most bytes of GPU memory ever allocated."""

    def heartbeat(self, unix_seconds: float) -> None: ...
