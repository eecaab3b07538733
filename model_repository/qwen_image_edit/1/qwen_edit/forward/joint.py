"""Queries, keys and values in one product of a layer, where nothing stands between the layers and their weights."""

from __future__ import annotations

from typing import Any

import torch

from qwen_edit.forward.block import Products, products_of_image, products_of_text

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_hf_hook", "_diffusers_hook")


def joined(transformer: Any) -> dict[Products, torch.nn.Module]:
    """One layer for each three that are plain, which keep their weights as parts of its own: they take no more memory.

    Call it when the weights have their place and their type.
    """
    attentions = [block.attn for block in transformer.transformer_blocks]
    threes = [find(attn) for attn in attentions for find in (products_of_image, products_of_text)]
    return {products: _joint(products) for products in threes if all(map(is_plain, products))}


def is_plain(layer: torch.nn.Module) -> bool:
    """Neither quantised nor adapted, neither hooked nor away."""
    return (
        type(layer) is torch.nn.Linear
        and type(layer.weight) is torch.nn.Parameter
        and type(layer.weight.data) is torch.Tensor
        and layer.bias is not None
        and "forward" not in vars(layer)
        and not any(getattr(layer, name, None) for name in HOOKS)
        and layer.weight.device.type != "meta"
    )


def _joint(products: Products) -> torch.nn.Linear:
    layers: Any = products
    joint = torch.nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), device="meta")
    for name in ("weight", "bias"):
        whole = torch.cat([getattr(layer, name).data for layer in layers])
        setattr(joint, name, torch.nn.Parameter(whole, requires_grad=False))
        for layer, part in zip(layers, whole.split_with_sizes([layer.out_features for layer in layers]), strict=True):
            setattr(layer, name, torch.nn.Parameter(part, requires_grad=False))
    return joint
