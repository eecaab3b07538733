"""One denoising step for a batch of jobs, each at its own step with its own text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qwen_edit.families import Geometry
from qwen_edit.sigmas import Sigmas


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
    text: torch.Tensor  # (text tokens, joint_attention_dim)
    negative_text: torch.Tensor | None  # None: no guidance
    true_cfg_scale: float
    sigmas: Sigmas
    step: int
    inpainting: Inpainting | None = None
    keep_clean_at: int | None = None  # the step after which `clean` is wanted
    clean: torch.Tensor | None = None  # predicted clean latents, (tokens, channels)


@dataclass(frozen=True)
class Row:
    """One transformer input."""

    latents: torch.Tensor
    references: tuple[torch.Tensor, ...]
    text: torch.Tensor
    timestep: torch.Tensor  # scalar in 0..1


class Denoiser:
    def __init__(self, pipeline: Any) -> None:
        self._transformer = pipeline.transformer
        self._cell = pipeline.vae_scale_factor * 2

    @property
    def device(self) -> torch.device:
        return self._transformer.device  # type: ignore[no-any-return]

    def step(self, jobs: Sequence[Denoising], *, rows_per_forward: int | None = None) -> None:
        """Moves every job one step on. All must share a geometry; none is changed where this raises."""
        velocities = self._velocities(jobs, rows_per_forward)
        for job, velocity in zip(jobs, velocities, strict=True):
            self._advance(job, velocity)

    def _velocities(self, jobs: Sequence[Denoising], rows_per_forward: int | None) -> list[torch.Tensor]:
        """Guided velocity of each job, (tokens, channels) float32."""
        rows = [_row(job, job.text) for job in jobs]
        rows += [_row(job, job.negative_text) for job in jobs if job.negative_text is not None]
        limit = rows_per_forward or len(rows)
        predictions = [
            prediction
            for start in range(0, len(rows), limit)
            for prediction in self._forward(rows[start : start + limit], jobs[0].geometry)
        ]
        negatives = iter(predictions[len(jobs) :])
        return [
            prediction if job.negative_text is None else guided(prediction, next(negatives), job.true_cfg_scale)
            for job, prediction in zip(jobs, predictions, strict=False)
        ]

    def _forward(self, rows: Sequence[Row], geometry: Geometry) -> torch.Tensor:
        """The transformer's velocities (rows, output tokens, channels), float32."""
        dtype = self._transformer.dtype
        hidden = torch.stack([torch.cat([part.to(dtype) for part in (row.latents, *row.references)]) for row in rows])
        text, mask = padded([row.text.to(dtype) for row in rows])
        shapes = [(1, height // self._cell, width // self._cell) for width, height in _sizes(geometry)]
        predicted = self._transformer(
            hidden_states=hidden,
            timestep=torch.stack([row.timestep for row in rows]).to(hidden.device),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask,
            img_shapes=[shapes] * len(rows),
            return_dict=False,
        )[0]
        return predicted[:, : rows[0].latents.shape[0]].float()  # type: ignore[no-any-return]

    def _advance(self, job: Denoising, velocity: torch.Tensor) -> None:
        if job.keep_clean_at == job.step + 1:
            job.clean = job.latents - float(job.sigmas.levels[job.step]) * velocity
        latents = job.latents + job.sigmas.delta(job.step) * velocity
        job.step += 1
        if job.inpainting is not None:
            latents = blended(latents, job.inpainting, float(job.sigmas.levels[job.step]))
        job.latents = latents


def guided(positive: torch.Tensor, negative: torch.Tensor, true_cfg_scale: float) -> torch.Tensor:
    """Classifier-free guidance, renormalised to each token's norm without it. (tokens, channels)"""
    combined = negative + true_cfg_scale * (positive - negative)
    norm = torch.norm(positive, dim=-1, keepdim=True)
    rescaled: torch.Tensor = combined * (norm / torch.norm(combined, dim=-1, keepdim=True))
    return rescaled


def blended(latents: torch.Tensor, inpainting: Inpainting, sigma: float) -> torch.Tensor:
    """Outside the region the source's latents at noise level `sigma`."""
    kept = sigma * inpainting.noise + (1 - sigma) * inpainting.source
    return (1 - inpainting.region) * kept + inpainting.region * latents


def padded(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(rows, longest, dim) with zeros on the right, where the rotary positions of text expect them, and its mask.

    The mask (rows, longest) is None where nothing is padded: attention has faster kernels without one.
    """
    lengths = [len(text) for text in texts]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(list(texts)), None
    batch = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return batch, mask.to(batch.device)


def _row(job: Denoising, text: torch.Tensor) -> Row:
    return Row(job.latents, job.references, text, job.sigmas.timesteps[job.step])


def _sizes(geometry: Geometry) -> tuple[tuple[int, int], ...]:
    return (geometry.output, *geometry.references)
