"""One denoising step for a batch of jobs, each at its own step with its own text."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch

from qwen_edit.families.sizes import Geometry
from qwen_edit.forward.lora_store import Adapters, LoraStore
from qwen_edit.forward.prefix_store import Prefix, PrefixStore
from qwen_edit.forward.replicas import Replicas
from qwen_edit.forward.sigmas import Sigmas
from qwen_edit.pipeline import Loras, Pipeline, Row

Condition = torch.Tensor | Prefix  # (text tokens, joint_attention_dim)


@dataclass
class Inpainting:
    """What a masked job needs at every step; all packed (tokens, channels) float32."""

    region: torch.Tensor  # 1 where latents are edited
    noise: torch.Tensor
    source: torch.Tensor  # clean latents of the source


@dataclass
class Denoising:
    """The state of one job between steps."""

    geometry: Geometry
    latents: torch.Tensor  # (tokens, channels), float32
    references: tuple[torch.Tensor, ...]  # (tokens, channels) of each reference image
    text: Condition
    negative_text: Condition | None  # None: no guidance
    true_cfg_scale: float
    sigmas: Sigmas
    step: int
    inpainting: Inpainting | None = None
    stop: int | None = None  # the step before which this run ends; None: the last one
    skipped: frozenset[int] = frozenset()  # steps that go on with the velocity before them
    keep_clean_at: int | None = None  # the step after which `clean` is wanted
    clean: torch.Tensor | None = None  # predicted clean latents, (tokens, channels)
    # (tokens, channels) float32, guided, of the last computed step. In half of the bytes, company would be seen: a
    # rounding of its own tells rows apart that differ in their last bit.
    velocity: torch.Tensor | None = None
    spared: int = 0  # steps taken without a forward
    adapters: Adapters = ()

    def tensors(self) -> list[torch.Tensor]:
        """All that it holds, or is held by what it holds."""
        held = [self.latents, *self.references, *_made_of(self.text), *_made_of(self.negative_text)]
        inpainting = self.inpainting and (self.inpainting.region, self.inpainting.noise, self.inpainting.source)
        held += [*(inpainting or ()), *(each for each in (self.clean, self.velocity) if each is not None)]
        return held

    @property
    def skips(self) -> bool:
        """Whether the next step of this run needs no forward."""
        return self.velocity is not None and self.step in self.skipped and self.step != self.stop


def _made_of(condition: Condition | None) -> tuple[torch.Tensor, ...]:
    if condition is None:
        return ()
    return condition.made_of if isinstance(condition, Prefix) else (condition,)


class Denoiser:
    def __init__(
        self, pipeline: Pipeline, prefixes: PrefixStore, loras: LoraStore, replicas: Replicas | None = None
    ) -> None:
        self._pipeline = pipeline
        self._transformers = replicas or pipeline
        self._prefixes = prefixes
        self._loras = loras

    def step(self, jobs: Sequence[Denoising], *, rows_per_forward: int | None = None) -> None:
        """Moves every job one computed step on, and those after it that need no forward; none is changed where this
        raises."""
        velocities = self._velocities(jobs, rows_per_forward)
        moved = [moved_on(job, velocity) for job, velocity in zip(jobs, velocities, strict=True)]
        for job, then in zip(jobs, moved, strict=True):
            vars(job).update(vars(then))

    def _velocities(self, jobs: Sequence[Denoising], rows_per_forward: int | None) -> list[torch.Tensor]:
        """Guided velocity of each job, (tokens, channels) float32."""
        inputs = [(job, job.text) for job in jobs]
        inputs += [(job, job.negative_text) for job in jobs if job.negative_text is not None]
        limit = rows_per_forward or len(inputs)
        predictions = [
            velocity.float()
            for start in range(0, len(inputs), limit)
            for velocity in self._transformers.velocities(self._rows(inputs[start : start + limit]))
        ]
        negatives = iter(predictions[len(jobs) :])
        combine = guided if self._pipeline.family.renormalises else combined
        return [
            positive if job.negative_text is None else combine(positive, next(negatives), job.true_cfg_scale)
            for job, positive in zip(jobs, predictions, strict=False)
        ]

    def _rows(self, inputs: Sequence[tuple[Denoising, Condition]]) -> list[Row]:
        """Of one forward; with it go prefixes and adapters, which their stores hold."""
        prefixes = iter(self._prefixes.tensors([text for _, text in inputs if isinstance(text, Prefix)]))
        return [
            row_of(
                job,
                next(prefixes) if isinstance(text, Prefix) else text,
                self._pipeline.dtype,
                self._loras.weighed(job.adapters),
            )
            for job, text in inputs
        ]


def moved_on(job: Denoising, velocity: torch.Tensor) -> Denoising:
    """The job after this step and those that then need no forward; itself it stays as it is."""
    then = copy(job)
    advance(then, velocity)
    if then.skipped:
        then.velocity = velocity
        skip(then)
    return then


def advance(job: Denoising, velocity: torch.Tensor) -> None:
    if job.keep_clean_at == job.step + 1:
        job.clean = job.latents - float(job.sigmas.levels[job.step]) * velocity
    latents = job.latents + job.sigmas.delta(job.step) * velocity
    job.step += 1
    if job.inpainting is not None:
        latents = blended(latents, job.inpainting, float(job.sigmas.levels[job.step]))
    job.latents = latents


def skip(job: Denoising) -> None:
    """Takes the steps that are due and need no forward."""
    while job.skips and job.velocity is not None:
        advance(job, job.velocity)
        job.spared += 1


def guided(positive: torch.Tensor, negative: torch.Tensor, true_cfg_scale: float) -> torch.Tensor:
    """Classifier-free guidance, renormalised to each token's norm without it. (tokens, channels)"""
    velocity = combined(positive, negative, true_cfg_scale)
    norm = torch.norm(positive, dim=-1, keepdim=True)
    rescaled: torch.Tensor = velocity * (norm / torch.norm(velocity, dim=-1, keepdim=True))
    return rescaled


def combined(positive: torch.Tensor, negative: torch.Tensor, true_cfg_scale: float) -> torch.Tensor:
    return negative + true_cfg_scale * (positive - negative)


def blended(latents: torch.Tensor, inpainting: Inpainting, sigma: float) -> torch.Tensor:
    """Outside the region the source's latents at noise level `sigma`."""
    kept = sigma * inpainting.noise + (1 - sigma) * inpainting.source
    return (1 - inpainting.region) * kept + inpainting.region * latents


def row_of(job: Denoising, text: torch.Tensor, dtype: torch.dtype, loras: Loras) -> Row:
    tokens = torch.cat([part.to(dtype) for part in (job.latents, *job.references)])
    return Row(tokens, tuple(job.geometry.shapes), text.to(dtype), float(job.sigmas.timesteps[job.step]), loras)
