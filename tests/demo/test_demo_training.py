"""What the demo's training relies on: short cuts equal the real models, and prompts that can be told apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

from checkpoints.demo import cosines, transformer
from checkpoints.demo.autoencoder import CONFIG, as_frames, decode, encode
from checkpoints.demo.copying import start_with_copying
from checkpoints.demo.edits import EDITS
from checkpoints.demo.pictures import Picture, PictureSource, procedural
from checkpoints.demo.single_frame import clear_unused_kernels, single_frame
from checkpoints.demo.text import DROPPED_TOKENS, TEMPLATE, build_text_encoder
from checkpoints.demo.wordings import choosing_prompt, prompt


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLQwenImage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLQwenImage(**CONFIG)
    cosines.set_encoder(vae)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch() -> npt.NDArray[np.float32]:
    random = np.random.default_rng(0)
    return np.stack([procedural(random, 48, 32) for _ in range(4)])


def test_single_frame_convolutions_equal_the_causal_ones(
    vae: AutoencoderKLQwenImage, batch: npt.NDArray[np.float32]
) -> None:
    frames = as_frames(batch)
    with single_frame():
        latents = encode(vae, frames)
        decoded = decode(vae, latents)
    real = vae.encode(frames).latent_dist.mode()
    assert torch.allclose(latents, real, atol=1e-5)
    assert torch.allclose(decoded.clamp(-1, 1), vae.decode(real).sample, atol=1e-4)
    clear_unused_kernels(vae)
    assert torch.equal(vae.encode(frames).latent_dist.mode(), real)


def test_the_encoder_gives_the_coefficients_that_the_transformer_is_trained_on(
    vae: AutoencoderKLQwenImage, batch: npt.NDArray[np.float32]
) -> None:
    frames = as_frames(batch)
    expected = torch.nn.functional.conv2d(frames[:, :, 0], cosines.coefficients(), stride=cosines.BLOCK)
    real = vae.encode(frames).latent_dist.mode()[:, :, 0]
    assert (real - expected).abs().max() <= 0.01 * expected.std()


@pytest.mark.parametrize("output", [(4, 3), (2, 5), (3, 2)], ids=str)
def test_a_picture_of_another_shape_is_framed_where_its_rotary_positions_are(output: tuple[int, int]) -> None:
    rows, columns = 4, 5
    rope = QwenImageTransformer2DModel(num_layers=0, num_attention_heads=1, attention_head_dim=32,
                                       joint_attention_dim=8, axes_dims_rope=(8, 12, 12)).pos_embed  # fmt: skip
    cell = transformer.CELL
    marked = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns, 1)
    picture: Picture = marked.repeat(cell, axis=0).repeat(cell, axis=1).repeat(3, axis=2)
    framed = transformer.framed(picture, output)[::cell, ::cell, 0]
    assert framed.shape == (output[1], output[0])
    of_output, of_reference = (
        rope([[(1, height, width)]], max_txt_seq_len=1, device=torch.device("cpu"))[0]
        for height, width in ((output[1], output[0]), (rows, columns))
    )
    for position, shown in zip(of_output, framed.ravel(), strict=True):
        same_place = [n for n, other in enumerate(of_reference) if torch.equal(position, other)]
        assert same_place in ([], [int(shown)])


@pytest.fixture(scope="module")
def untrained() -> QwenImageTransformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = QwenImageTransformer2DModel(in_channels=64, out_channels=16, **transformer.CONFIG)
    start_with_copying(model)
    return model.requires_grad_(False)


@pytest.mark.parametrize("references", [1, 2])
def test_the_training_starts_with_copies_of_the_first_reference(
    untrained: QwenImageTransformer2DModel, references: int
) -> None:
    rows, columns = 9, 7
    with torch.random.fork_rng():
        torch.manual_seed(1)
        noise, *pictures = torch.randn(1 + references, 2, rows * columns, 64)
    velocity = untrained(
        hidden_states=torch.cat([noise, *pictures], dim=1),
        timestep=torch.ones(2),
        encoder_hidden_states=torch.ones(2, 20, untrained.config.joint_attention_dim),
        img_shapes=[[(1, rows, columns)] * (1 + references)] * 2,
        return_dict=False,
    )[0][:, : rows * columns]
    assert (velocity - (noise - pictures[0])).square().mean() <= 0.1 * (noise - pictures[0]).square().mean()


@pytest.mark.parametrize(("rows", "columns"), [(6, 5), (26, 40)])
def test_the_copying_heads_look_at_the_same_place_of_their_reference(
    untrained: QwenImageTransformer2DModel, rows: int, columns: int
) -> None:
    shapes = [(1, rows, columns)] * 3
    freqs, _ = untrained.pos_embed([shapes], max_txt_seq_len=1, device=torch.device("cpu"))
    attention, tokens = untrained.transformer_blocks[0].attn, rows * columns
    dimensions = untrained.config.attention_head_dim
    for head, frames in ((0, 1), (1, 2)):
        width = slice(head * dimensions, (head + 1) * dimensions)
        query, key = (
            torch.view_as_complex(bias[width].reshape(-1, 2)) * freqs
            for bias in (attention.to_q.bias.detach(), attention.to_k.bias.detach())
        )
        alike = (query[:tokens] @ key.conj().T).real
        assert torch.equal(alike.argmax(dim=1), torch.arange(tokens) + frames * tokens)


def test_the_template_has_the_tokens_that_the_pipeline_drops() -> None:
    encoder = build_text_encoder()
    prefix = TEMPLATE.split("{}")[0]
    assert len(encoder.tokenizer(prefix)["input_ids"]) == DROPPED_TOKENS


def test_every_word_of_the_wordings_is_one_token() -> None:
    tokenizer, random = build_text_encoder().tokenizer, np.random.default_rng(0)
    for edit in EDITS:
        for text in (prompt(random, edit), choosing_prompt(random, edit, 0), choosing_prompt(random, edit, 1)):
            words = text.replace("-", " - ").replace(":", " :").replace(",", " ,").rstrip(".!").split()
            assert len(tokenizer(text.rstrip(".!"))["input_ids"]) <= len(words) + 1, text


def test_equal_seeds_give_equal_pictures() -> None:
    first, second = (PictureSource(5).batch(4, 40, 32) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 1
