"""One denoising step for a batch of jobs, each at its own step with its own text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from qwen_edit.families.sizes import Geometry
from qwen_edit.forward.sigmas import Sigmas
from qwen_edit.pipeline import Pipeline

PaddedTexts = tuple[torch.Tensor, torch.Tensor | None]  # (rows, longest, dim), and the mask where one is needed


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
    timesteps: torch.Tensor = field(init=False)  # beside the latents, so that no step copies one there

    def __post_init__(self) -> None:
        self.timesteps = self.sigmas.timesteps.to(self.latents.device)


@dataclass(frozen=True)
class Row:
    """One transformer input."""

    latents: torch.Tensor
    references: tuple[torch.Tensor, ...]
    text: torch.Tensor
    timestep: torch.Tensor  # scalar in 0..1


class Denoiser:
    """Rows of at least `unpadded_row_tokens` image tokens share a forward only where their texts are equally long:
    padding needs a mask, and a mask costs such rows more, in slower attention, than a forward of their own.
    """

    def __init__(self, pipeline: Pipeline, unpadded_row_tokens: int) -> None:
        self._pipeline = pipeline
        self._unpadded_row_tokens = unpadded_row_tokens
        self._texts = TextBatches()

    def step(self, jobs: Sequence[Denoising], *, rows_per_forward: int | None = None) -> None:
        """Moves every job one step on. All must share a geometry; none is changed where this raises."""
        velocities = self._velocities(jobs, rows_per_forward)
        for job, velocity in zip(jobs, velocities, strict=True):
            self._advance(job, velocity)

    def _velocities(self, jobs: Sequence[Denoising], rows_per_forward: int | None) -> list[torch.Tensor]:
        """Guided velocity of each job, (tokens, channels) float32."""
        rows = [row_of(job, job.text) for job in jobs]
        rows += [row_of(job, job.negative_text) for job in jobs if job.negative_text is not None]
        predictions: dict[int, torch.Tensor] = {}
        for group in grouped([len(row.text) for row in rows], rows_per_forward, together=self._may_pad(rows[0])):
            predicted = self._forward([rows[index] for index in group], jobs[0].geometry)
            predictions.update(zip(group, predicted, strict=True))
        negatives = iter([predictions[index] for index in range(len(jobs), len(rows))])
        return [
            predictions[index]
            if job.negative_text is None
            else guided(predictions[index], next(negatives), job.true_cfg_scale)
            for index, job in enumerate(jobs)
        ]

    def _forward(self, rows: Sequence[Row], geometry: Geometry) -> torch.Tensor:
        """The transformer's velocities (rows, output tokens, channels), float32."""
        dtype = self._pipeline.dtype
        hidden = torch.stack([torch.cat([part.to(dtype) for part in (row.latents, *row.references)]) for row in rows])
        text, mask = self._texts.padded([row.text for row in rows], dtype)
        timesteps = torch.stack([row.timestep for row in rows])
        predicted = self._pipeline.velocities(hidden, timesteps, text, mask, geometry.shapes)
        return predicted[:, : rows[0].latents.shape[0]].float()

    def _may_pad(self, row: Row) -> bool:
        tokens = len(row.latents) + sum(map(len, row.references))
        return tokens < self._unpadded_row_tokens

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


def padded(texts: Sequence[torch.Tensor]) -> PaddedTexts:
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


class TextBatches:
    """Padded texts of the last few companies: a company's is the same in each of its steps."""

    def __init__(self, kept: int = 4) -> None:
        self._kept = kept
        # Holding the texts keeps their ids from being given to others.
        self._batches: OrderedDict[tuple[object, ...], tuple[Sequence[torch.Tensor], PaddedTexts]] = OrderedDict()

    def padded(self, texts: Sequence[torch.Tensor], dtype: torch.dtype) -> PaddedTexts:
        key = (dtype, *map(id, texts))
        if key not in self._batches:
            self._batches[key] = texts, padded([text.to(dtype) for text in texts])
            if len(self._batches) > self._kept:
                self._batches.popitem(last=False)
        self._batches.move_to_end(key)
        return self._batches[key][1]


def grouped(text_tokens: Sequence[int], limit: int | None, *, together: bool) -> list[list[int]]:
    """Indices of the rows of each forward: at most `limit` in one, of equal text length unless `together`."""
    groups: dict[int, list[int]] = {}
    for index, tokens in enumerate(text_tokens):
        groups.setdefault(0 if together else tokens, []).append(index)
    return [
        indices[start : start + (limit or len(indices))]
        for indices in groups.values()
        for start in range(0, len(indices), limit or len(indices))
    ]


def row_of(job: Denoising, text: torch.Tensor) -> Row:
    return Row(job.latents, job.references, text, job.timesteps[job.step])
