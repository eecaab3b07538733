"""The VAE: pictures → 16 latent channels at a quarter of the width and height, and back. Trains its decoder."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage

from checkpoints.demo.cosines import set_encoder, start_decoder
from checkpoints.demo.pictures import PictureSource
from checkpoints.demo.single_frame import clear_unused_kernels, single_frame

log = logging.getLogger(__name__)

CONFIG = {
    "base_dim": 24,
    "z_dim": 16,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, False],  # two halvings of width and height, none of time
}
SEED = 1
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
# On the latents, in their standard deviations: the decoder has to forgive what the transformer gets wrong.
LATENT_NOISE = 0.05
STATISTICS_PICTURES = 256


@dataclass(frozen=True)
class Stage:
    steps: int
    batch: int
    side: int  # pixels


STAGES = (Stage(2749, 8, 64),)
DECAY_STEPS = 4000  # of the learning rate, down to nearly nothing; the training ends before


def build() -> AutoencoderKLQwenImage:
    """A VAE whose encoder is complete and whose decoder is to be trained."""
    torch.manual_seed(SEED)
    vae = AutoencoderKLQwenImage(**CONFIG)
    _switch_off_attention(vae)
    set_encoder(vae)
    start_decoder(vae)
    _normalise(vae)
    return vae.requires_grad_(False)


def train_decoder(vae: AutoencoderKLQwenImage, stages: tuple[Stage, ...] = STAGES) -> None:
    torch.manual_seed(SEED)
    pictures = PictureSource(SEED)
    total = sum(stage.steps for stage in stages)
    parameters = _trained_parameters(vae)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate)
    step = 0
    with single_frame():
        for stage in stages:
            for _ in range(stage.steps):
                loss = _loss(vae, as_frames(pictures.batch(stage.batch, stage.side, stage.side)))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                step += 1
                if step % 50 == 0:
                    log.info("decoder: step %d of %d, loss %.4f", step, total, loss.item())
    clear_unused_kernels(vae)
    vae.eval().requires_grad_(False)


def _trained_parameters(vae: AutoencoderKLQwenImage) -> list[torch.nn.Parameter]:
    """The decoder's without its attention."""
    parameters = [value for name, value in vae.decoder.named_parameters() if ".attentions." not in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def as_frames(pictures: object) -> torch.Tensor:
    """(B, H, W, 3) in 0..1 → (B, 3, 1, H, W) in -1..1, as the VAE takes them."""
    frames = torch.as_tensor(pictures).permute(0, 3, 1, 2).unsqueeze(2) * 2 - 1
    return frames.contiguous(memory_format=torch.channels_last_3d)


def encode(vae: AutoencoderKLQwenImage, frames: torch.Tensor) -> torch.Tensor:
    """The posterior's mode (B, 16, 1, H / 4, W / 4), not normalised."""
    moments = vae.quant_conv(vae.encoder(frames))
    latents: torch.Tensor = moments[:, : vae.config.z_dim]
    return latents


def decode(vae: AutoencoderKLQwenImage, latents: torch.Tensor) -> torch.Tensor:
    frames: torch.Tensor = vae.decoder(vae.post_quant_conv(latents))
    return frames


def _rate(step: int) -> float:
    """Of the learning rate: a linear start, then half a cosine."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * (0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * step / DECAY_STEPS)).item()) + 1e-3


def _loss(vae: AutoencoderKLQwenImage, frames: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        latents = encode(vae, frames)
        deviations = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        latents += LATENT_NOISE * deviations * torch.randn_like(latents)
    return reconstruction_loss(decode(vae, latents)[:, :, 0], frames[:, :, 0])


def reconstruction_loss(decoded: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Of pixels, of their differences (edges and grids) and of areas (colours); both (B, 3, H, W)."""
    error = decoded - original
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    areas = F.avg_pool2d(error, 4).abs().mean() + F.avg_pool2d(error, 16).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 0.5 * areas


@torch.no_grad()
def _switch_off_attention(vae: AutoencoderKLQwenImage) -> None:
    """Without it the VAE is purely local, and what it learns on small pictures holds on large ones."""
    for coder in (vae.encoder, vae.decoder):
        for attention in coder.mid_block.attentions:
            attention.proj.weight.zero_()
            attention.proj.bias.zero_()


@torch.no_grad()
def _normalise(vae: AutoencoderKLQwenImage) -> None:
    """Writes the latents' mean and standard deviation by channel into the config."""
    with single_frame():
        latents = encode(vae, as_frames(PictureSource(SEED).batch(STATISTICS_PICTURES, 64, 64)))
    vae.register_to_config(
        latents_mean=[round(value, 4) for value in latents.mean(dim=(0, 2, 3, 4)).tolist()],
        latents_std=[round(value, 4) for value in latents.std(dim=(0, 2, 3, 4)).tolist()],
    )
