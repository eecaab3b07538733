"""A Triton that answers as a test says, for what a real one cannot be made to do in good time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from shim.running.abilities import Abilities
from shim.running.segments import Outcome, Segment

STEPS = 8  # of an edit that names none
TIMINGS = {"queue": 0.25, "denoise": 1.0, "cache_hit": True, "text_tokens": 5, "image_tokens": 7, "output_tokens": 9}

Call = Callable[[Segment], Awaitable[Outcome]]


async def obey(segment: Segment, **timings: Any) -> Outcome:
    """What the model answers: latents that count the calls, a grey picture at the end."""
    steps = segment.steps or STEPS
    stop = steps if segment.stop is None else segment.stop
    calls = 1 if segment.latents is None else int(segment.latents[0, 0]) + 1
    done, grey = stop == steps, np.full((4, 6, 3), stop, np.uint8)
    return Outcome(
        step=stop,
        steps=steps,
        true_cfg_scale=segment.true_cfg_scale or 4.0,
        seed=segment.job.seed,
        timings=TIMINGS | timings,
        order=None,
        named=False,
        image=grey if done else None,
        latents=None if done else np.full((1, 1), calls, np.float32),
        preview=grey if segment.preview and not done else None,
    )


class ScriptedTriton:
    """Each call is answered by the next of `script`, and by `obey` when that is over."""

    def __init__(self, *script: Call) -> None:
        self.script = list(script)
        self.segments: list[Segment] = []
        self.edit_ids: list[str] = []  # of the segments
        self.ready = True
        self.abilities: Abilities | None = None

    async def servers(self) -> int:
        return int(self.ready)

    async def about(self) -> Abilities | None:
        return self.abilities

    async def run(self, segment: Segment, edit_id: str) -> Outcome:
        self.segments.append(segment)
        self.edit_ids.append(edit_id)
        answer = self.script.pop(0) if self.script else obey
        return await answer(segment)

    async def close(self) -> None: ...

    @property
    def spans(self) -> list[tuple[int, int | None]]:
        """(start, stop) of every call."""
        return [(segment.start, segment.stop) for segment in self.segments]
