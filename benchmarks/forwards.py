"""Single forwards of the transformer: how long they take, and how near that is to what the GPU can multiply."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from qwen_edit.families.sizes import Sizes
from qwen_edit.pipeline import Pipeline, Row

TEXT_TOKENS = 220  # of a short prompt with one picture
CEILING_SIDES = {"cuda": 8192, "cpu": 512}


def spread_of(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def timed(work: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls after one that warms up: between two events on a GPU."""
    work()
    return [_once_on_gpu(work) if device.type == "cuda" else _once(work) for _ in range(repeats)]


def _once(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _once_on_gpu(work: Callable[[], Any]) -> float:
    before, after = torch.Event("cuda", enable_timing=True), torch.Event("cuda", enable_timing=True)
    before.record()
    work()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1000


def crowd(pipeline: Pipeline, sizes: Sizes, side: int, text_tokens: Sequence[int]) -> list[Row]:
    """One row a text, each with a square output of `side` pixels and one reference."""
    geometry = sizes.geometry([(1, 1)], (side, side), masked=False)
    device, text_channels = pipeline.devices.transformer, pipeline.parts.transformer.config.joint_attention_dim
    place: dict[str, Any] = {"device": device, "dtype": pipeline.dtype}
    return [
        Row(
            torch.randn(sum(geometry.tokens), pipeline.token_channels, **place),
            tuple(geometry.shapes),
            torch.randn(tokens, text_channels, **place),
            0.5,
        )
        for tokens in text_tokens
    ]


def by_diffusers(pipeline: Pipeline, rows: Sequence[Row]) -> torch.Tensor:
    """diffusers' own forward of rows that differ in their texts alone: these are padded, and masked where they are."""
    lengths = torch.tensor([len(row.text) for row in rows])
    texts = torch.nn.utils.rnn.pad_sequence([row.text for row in rows], batch_first=True)
    mask = torch.arange(texts.shape[1])[None] < lengths[:, None]
    predicted: torch.Tensor = pipeline.parts.transformer(
        hidden_states=torch.stack([row.tokens for row in rows]),
        timestep=torch.tensor([row.time for row in rows]).to(texts),
        encoder_hidden_states=texts,
        encoder_hidden_states_mask=None if mask.all() else mask.to(texts.device),
        img_shapes=[list(row.shapes) for row in rows],
        return_dict=False,
    )[0]
    return predicted


def operations(pipeline: Pipeline, rows: Sequence[Row]) -> float:
    """Multiplications and additions of the layers that see every token, and of attention; the rest is below 1 %."""
    config = pipeline.parts.transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    row_tokens = [len(row.tokens) + len(row.text) for row in rows]
    # Four products of attention and two, four times as wide, of the feed-forward layer.
    linear = 2 * 12 * width * width * sum(row_tokens)
    attention = 4 * sum(tokens * tokens for tokens in row_tokens) * width
    return float(config.num_layers * (linear + attention))


CROWDS = {
    "1 row": (TEXT_TOKENS,),
    "2 rows": (TEXT_TOKENS, TEXT_TOKENS),
    "2 rows, one text half as long": (TEXT_TOKENS, TEXT_TOKENS // 2),
}


@torch.inference_mode()
def measure(pipeline: Pipeline, sizes: Sizes, side: int, repeats: int, *, stock: bool) -> dict[str, Any]:
    """A forward of one row, of two with equal texts, and of two with texts of different length; ours or diffusers'."""
    forward = by_diffusers if stock else Pipeline.velocities
    results: dict[str, Any] = {}
    for name, text_tokens in CROWDS.items():
        rows = crowd(pipeline, sizes, side, text_tokens)
        seconds = timed(partial(forward, pipeline, rows), pipeline.devices.transformer, repeats)
        done = operations(pipeline, rows)
        results[name] = {**spread_of(seconds), "tflops": done / statistics.median(seconds) / 1e12}
    return results


@torch.inference_mode()
def profile(pipeline: Pipeline, sizes: Sizes, side: int, rows: int = 15) -> str:
    """torch's table of what one forward of one row spends its time with."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    given, device = crowd(pipeline, sizes, side, [TEXT_TOKENS]), pipeline.devices.transformer
    pipeline.velocities(given)
    on_gpu = device.type == "cuda"
    with profiling(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        pipeline.velocities(given)
        if on_gpu:
            torch.cuda.synchronize(device)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return str(profiled.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=60))


def host_waits(work: Callable[[], Any], device: torch.device) -> list[str] | None:
    """The warnings of torch's own detector; None where there is no GPU to wait for."""
    if device.type != "cuda":
        work()
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(each.filename).name}:{each.lineno} {each.message}" for each in caught]


@torch.inference_mode()
def ceilings(device: torch.device, repeats: int = 20) -> dict[str, float]:
    """TFLOP/s of one large product in each kind of number that the device multiplies."""
    side = CEILING_SIDES[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    products: dict[str, Callable[[], Any]] = {str(dtype).removeprefix("torch."): lambda: left @ right}
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        left8, right8 = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn).t()
        scales = torch.ones(side, 1, device=device), torch.ones(1, side, device=device)
        products["float8"] = lambda: torch._scaled_mm(left8, right8, *scales, out_dtype=dtype, use_fast_accum=True)
    return {
        name: 2 * side**3 / statistics.median(timed(product, device, repeats)) / 1e12
        for name, product in products.items()
    }
