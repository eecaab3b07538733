"""The transformer's attention with rotary positions in real numbers.

diffusers multiplies complex numbers, for which torch's compiler generates no code: every product becomes a kernel of
its own between the compiled ones. Cosines and sines give the same within rounding.
"""

from __future__ import annotations

from typing import Any

import torch

from qwen_edit.pipeline import AttentionProcessor


def use_real_numbers(transformer: Any) -> None:
    """Call it before an attention backend is chosen."""
    transformer.pos_embed.register_forward_hook(_in_real_numbers)
    for block in transformer.transformer_blocks:
        block.attn.processor = RealRotaryProcessor()


def _in_real_numbers(_module: Any, _inputs: Any, angles: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    # Cloned, as the text's are a slice, whose offset the compiler would compare with lengths that happen to equal it.
    return tuple(torch.view_as_real(each).clone() for each in angles)


class RealRotaryProcessor(AttentionProcessor):
    """As the processor of diffusers, but takes its rotary embeddings as (tokens, pairs, 2)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if image_rotary_emb is None or attention_mask is not None:
            raise ValueError("rotary embeddings are needed, and no mask but that of the text")
        image_angles, text_angles = image_rotary_emb
        head = (-1, attn.inner_dim // attn.heads)
        # (rows, tokens, heads, width of a head)
        image = [layer(hidden_states).unflatten(-1, head) for layer in (attn.to_q, attn.to_k, attn.to_v)]
        text = [
            layer(encoder_hidden_states).unflatten(-1, head)
            for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        ]
        queries = rotated(attn.norm_added_q(text[0]), text_angles), rotated(attn.norm_q(image[0]), image_angles)
        keys = rotated(attn.norm_added_k(text[1]), text_angles), rotated(attn.norm_k(image[1]), image_angles)
        joint = self.attend(
            torch.cat(queries, dim=1),
            torch.cat(keys, dim=1),
            torch.cat([text[2], image[2]], dim=1),
            _joint_mask(encoder_hidden_states_mask, hidden_states),
        )
        joint = joint.flatten(2, 3).to(image[0].dtype)
        tokens = encoder_hidden_states.shape[1]
        out = attn.to_out[0](joint[:, tokens:].contiguous())
        return attn.to_out[1](out), attn.to_add_out(joint[:, :tokens].contiguous())


def rotated(states: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """(rows, tokens, heads, 2 × pairs), each pair turned by its angle, given as (tokens, pairs, [cosine, sine])."""
    real, imaginary = states.float().reshape(*states.shape[:-1], -1, 2).unbind(-1)
    cosine, sine = angles[:, None, :, 0], angles[:, None, :, 1]
    turned = torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)
    return turned.flatten(3).type_as(states)


def _joint_mask(text_mask: torch.Tensor | None, image: torch.Tensor) -> torch.Tensor | None:
    if text_mask is None:
        return None
    whole = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
    return torch.cat([text_mask, whole], dim=1)[:, None, None, :]
