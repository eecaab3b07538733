"""The VAE for pictures against diffusers', which takes each for a film."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from qwen_edit.loading import single_frame
from torch.utils.flop_counter import FlopCounterMode

BOUND = 1e-5  # of pictures in -1..1, and of latents in their standard deviations
CONFIGS: dict[str, dict[str, Any]] = {
    "narrow": {"base_dim": 8, "num_res_blocks": 1},
    "of the demo": {"base_dim": 24, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False] * 2},
    "wide": {"base_dim": 32},
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """diffusers', and ours with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        vae = AutoencoderKLQwenImage(**CONFIGS[request.param]).eval().requires_grad_(False)
    ours = deepcopy(vae)
    single_frame.bind(ours)
    return vae, ours


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand((1, 3, 1, height, width), generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "in tiles"])
def test_encoding_and_decoding_are_those_of_diffusers(pair: tuple[Any, Any], tiled: bool) -> None:
    sizes = {"tile_sample_min_height": 64, "tile_sample_min_width": 64}
    strides = {"tile_sample_stride_height": 48, "tile_sample_stride_width": 48}
    theirs, ours = pair
    for vae in pair:
        vae.enable_tiling(**sizes, **strides) if tiled else vae.disable_tiling()
    frames = picture(96, 160)
    latents, found = (vae.encode(frames).latent_dist.mode() for vae in (theirs, ours))
    assert (found - latents).abs().max() <= BOUND * latents.std()
    decoded, again = (vae.decode(latents).sample for vae in (theirs, ours))
    assert (again - decoded).abs().max() <= BOUND
    grey, grey_again = ((pixels * 127.5 + 127.5).round() for pixels in (decoded, again))
    assert (grey - grey_again).abs().max() <= 1


def test_it_multiplies_less_than_half_as_much(pair: tuple[Any, Any]) -> None:
    def products(work: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        return int(counter.get_total_flops())

    theirs, ours = pair
    frames = picture(64, 64)
    latents = theirs.encode(frames).latent_dist.mode()
    assert products(lambda: ours.encode(frames)) < 0.5 * products(lambda: theirs.encode(frames))
    assert products(lambda: ours.decode(latents)) < 0.5 * products(lambda: theirs.decode(latents))


def test_a_loaded_pipeline_has_it(checkpoint: Callable[[str], Path]) -> None:
    from qwen_edit.loading.checkpoint import find
    from qwen_edit.loading.load import load
    from qwen_edit.settings import Settings

    settings = Settings.from_environment({"QWEN_MODEL_DIR": str(checkpoint("plus"))})
    vae = load(find(settings.model_dir), settings, torch.device("cpu")).pipeline.parts.vae
    with FlopCounterMode(display=False) as counter:
        vae.decode(torch.zeros(1, 16, 1, 4, 4))
    assert not [name for name in counter.get_flop_counts()["Global"] if "3d" in str(name)]
    assert isinstance(vae.decoder.conv_in, single_frame.PictureConvolution)
