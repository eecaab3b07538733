"""One edit on its way through the engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qwen_edit.conditioning.preparation import Prepared
from qwen_edit.errors import Cancelled, EditError, Failed
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry
from qwen_edit.forward.denoise import Denoising
from qwen_edit.forward.lora_store import identity_of
from qwen_edit.forward.skipping import plan_at
from qwen_edit.pictures.decoding import Layers, Picture
from qwen_edit.request import EditRequest

log = logging.getLogger("image_edit_server")


@dataclass(frozen=True)
class Result:
    """What a run of an edit makes: `image` when it is finished, `latents` when it stopped before."""

    image: Picture | None = None  # RGB
    alpha: npt.NDArray[np.uint8] | None = None  # (height, width), of a picture that is not opaque
    latents: npt.NDArray[np.float32] | None = None  # (tokens, channels)
    history: npt.NDArray[np.float32] | None = None  # (tokens, channels), the velocity that the next step goes on with
    preview: Picture | None = None
    layers: Layers | None = None  # instead of `image`, of a picture that was taken apart


@dataclass(frozen=True)
class Outcome:
    """What an edit answers."""

    request: EditRequest
    step: int  # steps done
    timings: dict[str, Any]
    image: Picture | None
    latents: npt.NDArray[np.float32] | None
    preview: Picture | None
    alpha: npt.NDArray[np.uint8] | None
    history: npt.NDArray[np.float32] | None = None
    layers: Layers | None = None


class Reply(Protocol):
    """Where a job's answer goes: exactly one of `outcome` and `error` is called, once."""

    def sized(self, size: Size) -> None:
        """Told before any step is made; raises BadRequest where a picture of this size cannot be answered."""

    def outcome(self, outcome: Outcome) -> None: ...

    def error(self, error: EditError) -> None: ...

    def cancelled(self) -> bool: ...


class Phase(Enum):
    PREPARING = auto()  # its pictures are decoded
    WAITING = auto()  # can be scheduled; has `prepared`
    ENCODING = auto()  # is next, and encoded as soon as those before it are
    ENCODED = auto()  # has `state`, and no step yet
    RUNNING = auto()
    DECODING = auto()  # made the last step of its run
    DONE = auto()  # left the engine, answered or about to be


@dataclass
class Times:
    """Seconds of a job's life, and what it shared."""

    submitted: float = field(default_factory=time.monotonic)
    queue: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    steps: int = 0
    rows: int = 0  # summed over the job's steps
    cache_hit: bool = False


@dataclass(eq=False)
class Job:
    request: EditRequest
    reply: Reply
    number: int  # order of admission
    alone: bool = False  # shares no forward
    expected: tuple[int, ...] = ()  # its `row_tokens`, as far as they can be told before it is prepared
    place: float = field(init=False)  # among the others, the lowest the first; by the monotonic clock
    work: float = 0.0  # seconds that the whole edit was expected to need when it got its place
    replaced: bool = False  # by a later call of the same edit
    left: bool = False  # by its client
    times: Times = field(default_factory=Times)
    phase: Phase = Phase.PREPARING
    prepared: Prepared = field(init=False, repr=False)
    state: Denoising = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.place = self.request.arrival

    def queue(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.phase = Phase.WAITING

    def start(self, state: Denoising) -> None:
        """Once it is encoded, a job needs its pictures no more; a waiting crowd's would fill the memory."""
        self.state = state
        self.prepared = self.prepared.without_pictures()
        self.request = replace(self.request, images=(), mask=None, markup=None, latents=None)
        self.phase = Phase.ENCODED

    def end(self) -> None:
        self.phase = Phase.DONE

    @property
    def is_encoded(self) -> bool:
        return self.phase in (Phase.ENCODED, Phase.RUNNING, Phase.DECODING)

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for its answer any more. For any thread; a client's leaving is told only once."""
        if not self.left and self.reply.cancelled():
            self.left = True
        return self.left or self.replaced

    def why_unwanted(self) -> EditError | None:
        """What to answer where it is unwanted, or cannot be asked about; None where it is wanted."""
        try:
            return Cancelled() if self.unwanted else None
        except Exception:
            log.exception("whether edit %s is still wanted could not be asked", self.request.id)
            return Failed("the engine failed")

    @property
    def at_stop(self) -> bool:
        """Whether this run of the edit is done."""
        return self.state.step >= self.request.stop_step

    @property
    def finished(self) -> bool:
        """Whether the whole edit is, and not only this run of it."""
        return self.state.step >= self.request.num_inference_steps

    @property
    def steps_left(self) -> int:
        """Of the whole edit that need a forward, whatever this run of it was asked for."""
        return self.request.forwards(self.state.step if self.is_encoded else self.request.start_step)

    @property
    def geometry(self) -> Geometry:
        return self.prepared.geometry

    @property
    def rows(self) -> int:
        return len(self.row_tokens)

    @property
    def row_tokens(self) -> Sequence[int]:
        """Image and text tokens of each transformer input; a prefix counts as the few that it costs."""
        if self.phase is Phase.PREPARING:
            return self.expected
        return [self.geometry.row_tokens(prompt.tokens) for prompt in self.prepared.prompts]

    def outcome(self, result: Result) -> Outcome:
        pixels = result.image, result.latents, result.preview, result.alpha, result.history, result.layers
        return Outcome(self.request, self.state.step, self.timings(), *pixels)

    def account(self) -> str:
        """What was done, for the log."""
        times, done = self.times, "finished" if self.finished else "stopped"
        steps = times.steps or 1
        spared = f" ({self.state.spared} without a forward)" if self.state.spared else ""
        return (
            f"{done} after step {self.state.step} of {self.request.num_inference_steps}{spared}, "
            f"{times.denoise / steps:.3f} s a step in {times.rows / steps:.1f} rows, "
            f"queue {times.queue:.3f} s, encode {times.encode:.3f} s, decode {times.decode:.3f} s"
        )

    def timings(self) -> dict[str, Any]:
        times, (output_tokens, *reference_tokens) = self.times, self.geometry.tokens
        return {
            "queue": round(times.queue, 6),
            "encode": round(times.encode, 6),
            "denoise": round(times.denoise, 6),
            "decode": round(times.decode, 6),
            "rows": round(times.rows / times.steps, 3) if times.steps else 0,
            "cache_hit": times.cache_hit,
            "skipped": self.state.spared,
            "history": plan_at(self.state.step, self.request.num_inference_steps, self.request.cache),
            "adapters": identity_of(self.prepared.adapters),
            "named": True,  # a continued call may name its pictures
            "order": round(self.place - time.monotonic(), 6),
            **({"caption": self.prepared.caption} if self.prepared.caption else {}),
            **({"quality": self.request.quality} if self.request.quality else {}),
            "text_tokens": self.prepared.prompt.tokens,
            "image_tokens": sum(reference_tokens),
            "output_tokens": output_tokens,
        }


def in_order(job: Job) -> tuple[float, str, int]:
    """Two edits at one place keep their order in all their segments."""
    return job.place, job.request.edit_id, job.number
