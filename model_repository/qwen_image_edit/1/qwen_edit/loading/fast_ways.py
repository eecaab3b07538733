"""The ways of being faster that the settings and this machine allow, each to be switched on after a self-check."""

from __future__ import annotations

import torch

from qwen_edit.forward import joint
from qwen_edit.forward.block import Halves, Paths
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.loading import attention, compiling
from qwen_edit.loading.self_check import Fast
from qwen_edit.pipeline import Pipeline
from qwen_edit.settings import AUTO, Loading


def fast_ways(
    pipeline: Pipeline, paths: Paths, loading: Loading, device: torch.device, reference_area: int
) -> list[Fast]:
    """In the order in which each is tried beside those before it: what is compiled comes last, and once."""

    def join() -> None:
        paths.joint = joint.joined(pipeline.parts.transformer)

    def separate() -> None:
        paths.joint = {}

    def share() -> None:
        paths.varlen = attention.varlen(loading.attention_backend, device)

    def loop() -> None:
        paths.varlen = None

    def compiled() -> None:
        paths.halves = compiling.compiled_halves()
        compiling.warm_up(pipeline, reference_area)

    def uncompiled() -> None:
        paths.halves = Halves()

    ways: list[Fast] = []
    if isinstance(pipeline, Pipeline21):
        return ways  # beyond its own forward there are none
    if loading.offload == "none":  # else weights come and go
        ways.append(Fast("queries, keys and values in one product", join, separate))
    if attention.varlen(loading.attention_backend, device) is not None:
        ways.append(Fast("attention of short rows in one call", share, loop))
    if compiles(loading, device):
        ways.append(Fast(f"COMPILE={_said(loading)}", compiled, uncompiled, wanted=loading.compile is True))
    return ways


def compiles(loading: Loading, device: torch.device) -> bool:
    if loading.compile == AUTO:
        return device.type == "cuda" and loading.offload == "none"
    return bool(loading.compile)


def _said(loading: Loading) -> str:
    return str(loading.compile).lower()
