"""What the engines tell of themselves on Triton's /metrics, and whether they still get on with their work."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

SAMPLE = re.compile(r"^qwen_edit_(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')

IDLE_HEARTBEAT_SECONDS = 5.0  # an idle engine beats every second
BUSY_HEARTBEAT_SECONDS = 15.0  # a busy one between two steps, encodings or decodings
STALL_STEPS = 20  # no engine is called stalled before this many of its own steps would have been made


@dataclass(frozen=True)
class EngineState:
    """One engine at one moment."""

    heartbeat: float  # by its own clock: that it changes is a sign of life, its value is none
    jobs: int  # waiting and running
    away: int  # edits between two of their segments
    steps: float  # made since the start
    ended: float  # edits
    pictures: float  # decoded
    encode_seconds: float
    decode_seconds: float
    denoise_seconds: float
    forwards: float

    @property
    def progress(self) -> tuple[float, ...]:
        return self.steps, self.ended, self.pictures, self.encode_seconds, self.decode_seconds


def parse(metrics: str) -> dict[str, EngineState]:
    """The state of every engine, by its name, from the text of Triton's /metrics."""
    totals: dict[str, defaultdict[str, float]] = {}
    for name, labels, value in SAMPLE.findall(metrics):
        label = dict(LABEL.findall(labels))
        sums = totals.setdefault(label["engine"], defaultdict(float))
        sums[name] += float(value)
        if "stage" in label:
            sums[f"{name}:{label['stage']}"] += float(value)
    return {engine: _state(sums) for engine, sums in totals.items()}


def _state(sums: defaultdict[str, float]) -> EngineState:
    return EngineState(
        heartbeat=sums["heartbeat_timestamp_seconds"],
        jobs=int(sums["jobs"]),
        away=int(sums["away"]),
        steps=sums["steps_total"],
        ended=sums["edits_total"],
        pictures=sums["pictures_total"],
        encode_seconds=sums["seconds_total:encode"],
        decode_seconds=sums["seconds_total:decode"],
        denoise_seconds=sums["seconds_total:denoise"],
        forwards=sums["rows_per_step_count"],
    )


class EngineWatch:
    """One engine, looked at now and then. Times are seconds in which the looker ran."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._step_seconds = 0.0  # the longest that was seen, averaged between two looks
        self._state: EngineState | None = None
        self._moved_at = self._beat_at = self._stepped_at = 0.0

    @property
    def unfinished(self) -> int:
        """Edits that it holds, or has made some segments of."""
        return self._state.jobs + self._state.away if self._state else 0

    def observe(self, state: EngineState, now: float) -> None:
        before, self._state = self._state, state
        if before is None or state.jobs == 0 or state.progress != before.progress:
            self._moved_at = now
        if before is None or state.heartbeat != before.heartbeat:
            self._beat_at = now
        if before is not None and state.forwards > before.forwards:
            seconds = (state.denoise_seconds - before.denoise_seconds) / (state.forwards - before.forwards)
            # The engine counts a pause of the whole machine into its step.
            self._step_seconds = max(self._step_seconds, min(seconds, now - self._stepped_at))
        if before is None or state.jobs == 0 or state.forwards != before.forwards:
            self._stepped_at = now

    def stalled(self, now: float) -> str | None:
        """Why its server must be restarted."""
        if self._state is None:
            return None
        limit = max(self._stall_seconds, STALL_STEPS * self._step_seconds)
        if self._state.jobs and now - self._moved_at > limit:
            return f"its engine has {self._state.jobs} edits and made no step for {now - self._moved_at:.0f} s"
        if now - self._beat_at > limit:
            return f"its engine has no heartbeat for {now - self._beat_at:.0f} s"
        return None

    def late(self, now: float) -> str | None:
        """Why no edit should be sent to it now."""
        if self._state is None:
            return None
        slow = max(BUSY_HEARTBEAT_SECONDS, STALL_STEPS * self._step_seconds)
        limit = slow if self._state.jobs else IDLE_HEARTBEAT_SECONDS
        age = now - self._beat_at
        return f"an engine's heartbeat is {age:.0f} s old" if age > limit else None
