"""Trains the transformer to make edits: flow matching on latents, with the reference's latents beside the noise."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from qwen_edit.pipeline import packed

from checkpoints.demo.autoencoder import as_frames
from checkpoints.demo.copying import start_with_copying
from checkpoints.demo.cosines import BLOCK, coefficients
from checkpoints.demo.course import (
    EDITS_SEEN,
    LEARNING_RATE,
    SEED,
    STAGES,
    TASKS,
    WARM_UP_STEPS,
    WORDINGS,
    Cells,
    Stage,
)
from checkpoints.demo.edits import EDITS
from checkpoints.demo.pictures import Picture, PictureSource
from checkpoints.demo.text import WIDTH, TextEncoder, Wording, Wordings

log = logging.getLogger(__name__)

CONFIG = {
    "num_layers": 2,
    "num_attention_heads": 3,
    "attention_head_dim": 64,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (16, 24, 24),
    "zero_cond_t": True,
}
# The noise levels that 8 steps of the scheduler visit: shifted by exp(mu), and never under its last one.
SHIFT = math.exp(0.52)
LEAST_NOISE = 0.02
LEAST_UNIFORM = 0.1  # of what the noise levels are computed from
INEXACT = 0.6  # share of examples whose picture under the noise is not quite the target
MISTAKEN = 0.3  # of a latent channel's standard deviation
PURE_NOISE = 0.25  # share of examples at the level of the first step
LAST_LARGE_NOISE = 0.3  # about the level of the last step but one: what is predicted there is nearly the result
CELL = 8  # pixels a side of a token


@dataclass(frozen=True)
class Example:
    """A batch of one geometry, as the transformer takes it."""

    target: torch.Tensor  # clean latents of the output, (B, tokens, 64)
    references: tuple[torch.Tensor, ...]
    text: torch.Tensor  # (B, text tokens, WIDTH)
    text_mask: torch.Tensor
    shapes: list[tuple[int, int, int]]  # of the output and the references: 1, rows, columns


def train(vae: AutoencoderKLQwenImage, encoder: TextEncoder) -> QwenImageTransformer2DModel:
    torch.manual_seed(SEED)
    transformer = QwenImageTransformer2DModel(in_channels=64, out_channels=16, **CONFIG)
    start_with_copying(transformer)
    examples = Examples(vae, Wordings(encoder, SEED, WORDINGS, EDITS_SEEN))
    optimizer = torch.optim.AdamW(transformer.parameters(), betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    weights = channel_weights(vae)
    step = 0
    for stage in STAGES:
        for stage_step in range(stage.steps):
            warm = min(1.0, (step + 1) / WARM_UP_STEPS)
            rate = _between(stage.rates, stage_step / stage.steps)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm * rate
            loss = flow_loss(transformer, examples.draw(stage), weights)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0:
                log.info("transformer: step %d, loss %.4f", step, loss.item())
    return transformer.eval().requires_grad_(False)


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def flow_loss(transformer: QwenImageTransformer2DModel, example: Example, weights: torch.Tensor) -> torch.Tensor:
    """Mean square error of the predicted velocity, that of the clean picture's values by `weights` (64,)."""
    noise = torch.randn_like(example.target)
    level = noise_levels(len(noise))
    noised = torch.lerp(_as_reached(example, level), noise, level[:, None, None])
    predicted = transformer(
        hidden_states=torch.cat([noised, *example.references], dim=1),
        timestep=level,
        encoder_hidden_states=example.text,
        encoder_hidden_states_mask=example.text_mask,
        img_shapes=[example.shapes] * len(noise),
        return_dict=False,
    )[0][:, : noise.shape[1]]
    errors: torch.Tensor = (predicted - (noised - example.target) / level[:, None, None]).square()
    by_level = (level / LAST_LARGE_NOISE).clamp(max=1).square()
    return (errors * weights * by_level[:, None, None]).mean()


def _as_reached(example: Example, level: torch.Tensor) -> torch.Tensor:
    """The target, or what an inexact run makes of it: still like the reference in part, and its colours off.

    Shown only targets, the transformer would learn to trust what it has made so far, and add to its own mistakes.
    """
    target, reference = example.target, example.references[0]
    wrong = MISTAKEN * torch.randn(len(target), 1, 16).repeat_interleave(4, dim=2)
    if reference.shape == target.shape:
        wrong = wrong + torch.rand(len(target), 1, 1) * (reference - target)
    share = torch.rand(len(target)) * (torch.rand(len(target)) < INEXACT) * (level / LAST_LARGE_NOISE).clamp(max=1)
    return target + share[:, None, None] * wrong


def channel_weights(vae: AutoencoderKLQwenImage) -> torch.Tensor:
    """(64,) of a token's values, 1 on average: those of large deviation, in pixels, are seen most."""
    deviations = torch.tensor(vae.config.latents_std)
    return (deviations / deviations.mean()).repeat_interleave(4)


def noise_levels(count: int) -> torch.Tensor:
    """(count,) in LEAST_NOISE..1, spread as the scheduler's steps are."""
    uniform = LEAST_UNIFORM + (1 - LEAST_UNIFORM) * torch.rand(count)
    shifted = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    levels = torch.where(torch.rand(count) < PURE_NOISE, torch.ones(count), shifted)
    return levels.clamp(min=LEAST_NOISE)


class Examples:
    """Endless training batches; equal models and stages give equal batches."""

    def __init__(self, vae: AutoencoderKLQwenImage, wordings: Wordings) -> None:
        self._coefficients = coefficients()
        self._mean, self._std = (
            torch.tensor(values).view(1, -1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        self._wordings = wordings
        self._random = np.random.default_rng(SEED)
        self._pictures = PictureSource(SEED)

    def draw(self, stage: Stage) -> Example:
        task = self._random.choice(3, p=TASKS)
        shapes = [self._shape(stage) for _ in range(2 if task == 2 else 1)]
        if task == 2 and self._random.random() < 0.7:
            shapes[1] = shapes[0]
        output = self._nearby(shapes[0]) if task == 1 else shapes[-1]
        known = self._wordings.choosing if task == 2 else self._wordings.single
        wordings = self._alike(known, stage.batch)
        references = [self._pictures.batch(stage.batch, *_pixels(shape)) for shape in shapes]
        targets = [
            framed(_clipped(EDITS[wording.edit].apply(references[wording.picture][row])), output)
            for row, wording in enumerate(wordings)
        ]
        text, mask = _padded(wordings)
        return Example(
            target=self._latents(np.stack(targets)),
            references=tuple(self._latents(reference) for reference in references),
            text=text,
            text_mask=mask,
            shapes=[(1, rows, columns) for columns, rows in (output, *shapes)],
        )

    def _alike(self, known: list[Wording], count: int) -> list[Wording]:
        """A random choice of texts of about one length, so that little is padded; `known` goes by length."""
        window = len(known) // 5
        first = self._random.integers(len(known) - window + 1)
        return [known[first + self._random.integers(window)] for _ in range(count)]

    def _shape(self, stage: Stage) -> Cells:
        return stage.shapes[self._random.integers(len(stage.shapes))]

    def _nearby(self, shape: Cells) -> Cells:
        """Another shape of about the area: a picture is not always wanted in its own proportions."""
        columns, rows = shape
        change = self._random.uniform(0.6, 1.6)
        return max(4, round(columns * change**0.5)), max(4, round(rows / change**0.5))

    def _latents(self, pictures: Picture) -> torch.Tensor:
        """(B, H, W, 3) in 0..1 → normalised and packed (B, tokens, 64), from the coefficients that the encoder gives"""
        latents = torch.nn.functional.conv2d(as_frames(pictures)[:, :, 0], self._coefficients, stride=BLOCK)
        return packed((latents - self._mean) / self._std)


def framed(picture: Picture, output: Cells) -> Picture:
    """The picture on a canvas of another shape, where its rotary positions put it: cut off, or its edges drawn out."""
    height, width, _ = picture.shape
    rows = _covered(height // CELL, output[1])
    columns = _covered(width // CELL, output[0])
    return picture[rows][:, columns]


def _covered(tokens: int, output: int) -> npt.NDArray[np.intp]:
    """For each pixel of the output's side the pixel of the picture's side, both centred as their positions are."""
    first = (tokens - tokens // 2) - (output - output // 2)
    return np.clip(np.arange(output * CELL) + first * CELL, 0, tokens * CELL - 1)


def _pixels(shape: Cells) -> tuple[int, int]:
    return shape[0] * CELL, shape[1] * CELL


def _clipped(picture: Picture) -> Picture:
    clipped: Picture = np.clip(picture, 0, 1).astype(np.float32)
    return clipped


def _padded(wordings: list[Wording]) -> tuple[torch.Tensor, torch.Tensor]:
    texts = [wording.embeddings for wording in wordings]
    lengths = torch.tensor([len(text) for text in texts])
    text = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return text, torch.arange(text.shape[1])[None] < lengths[:, None]
