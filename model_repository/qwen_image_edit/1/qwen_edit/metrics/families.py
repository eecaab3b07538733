"""The metrics by name, over whatever makes metrics: `model.py` lends Triton's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from qwen_edit.metrics.protocol import NO_PREFIXES, OUTCOMES, PREFIX_COUNTS, STAGES, STATES, PrefixUsage

ROWS = (1, 2, 4, 8, 16, 32, 64)
# From an idle engine's milliseconds to what a request may take at most (REQUEST_TIMEOUT_SECONDS).
WAITS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300)

BEAT_SECONDS = 15.0  # a busy engine beats between two steps, encodings or decodings, an idle one every second
STEPS_OF_A_BEAT = 20  # or so many of its own steps, if those take longer


class Metric(Protocol):
    """One labelled series."""

    def increment(self, value: float) -> None: ...
    def set(self, value: float) -> None: ...
    def observe(self, value: float) -> None: ...


class Make(Protocol):
    """Makes a series of the family of that name; `kind` is COUNTER, GAUGE or HISTOGRAM, which has `buckets`."""

    def __call__(
        self, name: str, description: str, kind: str, labels: Mapping[str, str], buckets: Sequence[float] = ()
    ) -> Metric: ...


class EngineMetrics:
    """One engine's. Gauges are set at once: a restarted worker's keep old values.

    `about` are families of one series that is always 1, by their name: what it tells is in its labels.
    """

    def __init__(
        self,
        make: Make,
        engine: str,
        *,
        max_jobs: int,
        about: Mapping[str, Mapping[str, str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._make = make
        self._engine = engine
        self._edits = self._each("edits_total", "Edits by how they ended", "COUNTER", "outcome", OUTCOMES)
        self._pictures = self._one("pictures_total", "Pictures and masks decoded, or refused", "COUNTER")
        self._steps = self._one("steps_total", "Denoising steps, each job's counted", "COUNTER")
        self._spared = self._one("steps_spared_total", "Steps that the step cache made without a forward", "COUNTER")
        self._rows = self._one("rows_per_step", "Transformer inputs sharing a forward", "HISTOGRAM", ROWS)
        self._seconds = self._each("seconds_total", "Seconds spent, by stage", "COUNTER", "stage", STAGES)
        self._queue = self._one("queue_seconds", "From being taken to being encoded, new edits", "HISTOGRAM", WAITS)
        self._first_step = self._one(
            "first_step_seconds", "From being taken to the end of the first step, new edits", "HISTOGRAM", WAITS
        )
        self._away = self._one("away", "Edits between two of their segments", "GAUGE")
        self._jobs = self._each("jobs", "Edits that the engine holds", "GAUGE", "state", STATES)
        self._max_jobs = self._one("max_jobs", "Most edits that the engine holds", "GAUGE")
        self._hits = self._one("cache_hits_total", "Encodings found in the conditioning cache", "COUNTER")
        self._misses = self._one("cache_misses_total", "Encodings computed", "COUNTER")
        self._cache_bytes = self._one("cache_bytes", "Bytes held by the conditioning cache", "GAUGE")
        self._prefixes = [
            self._one(f"prefix_{name}_total", description, "COUNTER") for name, description in PREFIX_COUNTS.items()
        ]
        self._prefix_bytes = self._one("prefix_bytes", "Bytes held of keys and values of prefixes", "GAUGE")
        self._gpu_peak = self._one("gpu_peak_bytes", "Most bytes of GPU memory ever allocated", "GAUGE")
        alive = "Unix time at which the engine was last alive"
        self._heartbeat = self._one("heartbeat_timestamp_seconds", alive, "GAUGE")
        self._old_heartbeat = self._one("heartbeat_seconds", f"{alive}: the name up to 2.0", "GAUGE")
        self._about = [
            self._one(name, "What this engine is; always 1", "GAUGE", labels=labels)
            for name, labels in (about or {}).items()
        ]
        self._counted = (0, 0)
        self._prefixes_counted = NO_PREFIXES
        self._beaten_at = 0.0
        self._longest_step = 0.0
        for one in self._about:
            one.set(1)
        self._max_jobs.set(max_jobs)
        self.jobs(0, 0)
        self.away(0)
        self.cache(0, 0, 0)
        self.prefixes(NO_PREFIXES)
        self.gpu_peak(0)
        self.heartbeat(time.time())

    @property
    def alive(self) -> bool:
        """Whether the engine gets on with its work."""
        return self._clock() - self._beaten_at <= max(BEAT_SECONDS, STEPS_OF_A_BEAT * self._longest_step)

    def edit(self, outcome: str) -> None:
        self._edits[outcome].increment(1)

    def picture(self) -> None:
        self._pictures.increment(1)

    def began(self, queue_seconds: float, encode_seconds: float, *, new: bool) -> None:
        self.seconds("queue", queue_seconds)
        self.seconds("encode", encode_seconds)
        if new:
            self._queue.observe(queue_seconds)

    def first_step(self, seconds: float) -> None:
        self._first_step.observe(seconds)

    def step(self, jobs: int, rows: int) -> None:
        self._steps.increment(jobs)
        self._rows.observe(rows)

    def ended(self, decode_seconds: float, *, spared: int) -> None:
        self.seconds("decode", decode_seconds)
        self._spared.increment(spared)

    def seconds(self, stage: str, seconds: float) -> None:
        self._seconds[stage].increment(seconds)
        if stage == "denoise":
            self._longest_step = max(self._longest_step, seconds)

    def jobs(self, waiting: int, running: int) -> None:
        self._jobs["waiting"].set(waiting)
        self._jobs["running"].set(running)

    def away(self, edits: int) -> None:
        self._away.set(edits)

    def cache(self, hits: int, misses: int, size: int) -> None:
        self._hits.increment(hits - self._counted[0])
        self._misses.increment(misses - self._counted[1])
        self._counted = hits, misses
        self._cache_bytes.set(size)

    def prefixes(self, usage: PrefixUsage) -> None:
        for counter, now, before in zip(self._prefixes, usage, self._prefixes_counted, strict=False):
            counter.increment(now - before)
        self._prefixes_counted = usage
        self._prefix_bytes.set(usage.bytes)

    def gpu_peak(self, size: int) -> None:
        self._gpu_peak.set(size)

    def heartbeat(self, unix_seconds: float) -> None:
        self._beaten_at = self._clock()
        self._heartbeat.set(unix_seconds)
        self._old_heartbeat.set(unix_seconds)

    def _one(
        self,
        name: str,
        description: str,
        kind: str,
        buckets: Sequence[float] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Metric:
        # Not `instance`, which Prometheus takes for the address that it scrapes.
        return self._make(f"qwen_edit_{name}", description, kind, {"engine": self._engine, **(labels or {})}, buckets)

    def _each(self, name: str, description: str, kind: str, label: str, values: tuple[str, ...]) -> dict[str, Metric]:
        return {value: self._one(name, description, kind, labels={label: value}) for value in values}
