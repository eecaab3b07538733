"""One edit on its way through the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qwen_edit.conditioning.conditioner import Prompt, Reference
from qwen_edit.errors import EditError
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry
from qwen_edit.forward.denoise import Denoising
from qwen_edit.pictures.masks import Mask
from qwen_edit.request import EditRequest


@dataclass(frozen=True)
class Outcome:
    """What an edit answers: `image` when it is finished, `latents` when it stopped before."""

    request: EditRequest
    step: int  # steps done
    timings: dict[str, Any]
    image: npt.NDArray[np.uint8] | None = None  # (height, width, 3)
    latents: npt.NDArray[np.float32] | None = None  # (tokens, channels)
    preview: npt.NDArray[np.uint8] | None = None  # (height, width, 3)


class Reply(Protocol):
    """Where a job's answer goes: exactly one of `outcome` and `error` is called, once."""

    def outcome(self, outcome: Outcome) -> None: ...

    def error(self, error: EditError) -> None: ...

    def cancelled(self) -> bool: ...


@dataclass(frozen=True)
class Prepared:
    """A job whose pictures are decoded and whose sizes and texts are checked."""

    references: tuple[Reference, ...]
    geometry: Geometry
    prompt: Prompt
    negative_prompt: Prompt | None  # None: no guidance
    mask: Mask | None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (self.prompt,) if self.negative_prompt is None else (self.prompt, self.negative_prompt)

    @property
    def latents(self) -> tuple[tuple[Reference, Size], ...]:
        """What the VAE encodes, and at which size; a masked job needs its source at the output's size too."""
        references = tuple(zip(self.references, self.geometry.references, strict=True))
        return references if self.mask is None else (*references, (self.references[0], self.geometry.output))


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
    """Schedulable once it is prepared; has a `state` from its first step on."""

    request: EditRequest
    reply: Reply
    number: int  # order of admission
    cell: int  # pixels a latent token spans
    times: Times = field(default_factory=Times)
    prepared: Prepared | None = None
    state: Denoising | None = None

    @property
    def ready(self) -> Prepared:
        if self.prepared is None:
            raise RuntimeError(f"job {self.number} is used before it is prepared")
        return self.prepared

    @property
    def running(self) -> Denoising:
        if self.state is None:
            raise RuntimeError(f"job {self.number} is used before it is encoded")
        return self.state

    @property
    def steps_left(self) -> int:
        """Of the whole edit, whatever this run of it was asked for."""
        done = self.request.start_step if self.state is None else self.state.step
        return self.request.num_inference_steps - done

    def forget_inputs(self) -> None:
        """Once it is encoded, a job needs its pictures no more; a waiting crowd's would fill the memory."""
        self.prepared = replace(self.ready, references=())
        self.request = replace(self.request, images=(), mask=None, latents=None)

    @property
    def order(self) -> tuple[float, int]:
        return self.request.arrival, self.number

    @property
    def geometry(self) -> Geometry:
        return self.ready.geometry

    @property
    def rows(self) -> int:
        return 1 if self.ready.negative_prompt is None else 2

    @property
    def output_tokens(self) -> int:
        width, height = self.geometry.output
        return (width // self.cell) * (height // self.cell)

    @property
    def reference_tokens(self) -> int:
        return sum((width // self.cell) * (height // self.cell) for width, height in self.geometry.references)

    @property
    def image_tokens(self) -> int:
        return self.output_tokens + self.reference_tokens

    @property
    def text_tokens(self) -> int:
        negative = self.ready.negative_prompt
        return max(self.ready.prompt.tokens, negative.tokens if negative else 0)

    def timings(self) -> dict[str, Any]:
        times = self.times
        return {
            "queue": round(times.queue, 6),
            "encode": round(times.encode, 6),
            "denoise": round(times.denoise, 6),
            "decode": round(times.decode, 6),
            "rows": round(times.rows / times.steps, 3) if times.steps else 0,
            "cache_hit": times.cache_hit,
            "text_tokens": self.ready.prompt.tokens,
            "image_tokens": self.reference_tokens,
            "output_tokens": self.output_tokens,
        }
