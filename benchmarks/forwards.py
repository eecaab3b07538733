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

TEXT_TOKENS = 260  # of a short prompt with one picture
LONG_TEXT_TOKENS = 700  # of a long one, or of three pictures
ATTENTION = "aten::_scaled_dot_product_"
TOP = 12  # kernels of a forward that are told


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
    return called(pipeline.parts.transformer, rows)


def called(transformer: Any, rows: Sequence[Row]) -> torch.Tensor:
    lengths = torch.tensor([len(row.text) for row in rows])
    texts = torch.nn.utils.rnn.pad_sequence([row.text for row in rows], batch_first=True)
    mask = torch.arange(texts.shape[1])[None] < lengths[:, None]
    predicted: torch.Tensor = transformer(
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
    "1 row, a long text": (LONG_TEXT_TOKENS,),
    "2 rows": (TEXT_TOKENS, TEXT_TOKENS),
    "2 rows, one text half as long": (TEXT_TOKENS, TEXT_TOKENS // 2),
    "3 rows, each text another length": (TEXT_TOKENS, TEXT_TOKENS // 2, TEXT_TOKENS // 3),
}


@torch.inference_mode()
def measure(pipeline: Pipeline, sizes: Sizes, side: int, repeats: int, *, stock: bool) -> dict[str, Any]:
    """A forward of each crowd, ours or diffusers', and the seconds until the host has queued it."""
    forward = by_diffusers if stock else Pipeline.velocities
    device = pipeline.devices.transformer
    results: dict[str, Any] = {}
    for name, text_tokens in CROWDS.items():
        rows = crowd(pipeline, sizes, side, text_tokens)
        work = partial(forward, pipeline, rows)
        try:
            seconds = timed(work, device, repeats)
        except Exception as error:  # not every kernel takes the mask of padded texts
            results[name] = {"error": f"{type(error).__name__}: {(str(error).splitlines() or ['-'])[0]}"}
            continue
        rate = operations(pipeline, rows) / statistics.median(seconds) / 1e12
        host = statistics.median(queued(work, device) for _ in range(repeats))
        results[name] = {**spread_of(seconds), "tflops": rate, "host": host}
    return results


def queued(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the host has queued it, on an idle GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return _once(work)


@torch.inference_mode()
def new_lengths(pipeline: Pipeline, sizes: Sizes, side: int, count: int = 8) -> dict[str, float]:
    """Seconds of forwards whose text has a new length, and of the same again: some kernels plan for each length."""
    device = pipeline.devices.transformer
    firsts: list[float] = []
    again: list[float] = []
    for tokens in range(TEXT_TOKENS + 1, TEXT_TOKENS + 1 + count):
        rows = crowd(pipeline, sizes, side, [tokens])
        for seconds in (firsts, again):
            started = time.perf_counter()
            pipeline.velocities(rows)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - started)
    return {"first": statistics.median(firsts), "again": statistics.median(again)}


@torch.inference_mode()
def profile(pipeline: Pipeline, sizes: Sizes, side: int, *, stock: bool = False) -> dict[str, Any]:
    """What one forward of one row spends its time with: the kernels on top, and those of attention, by their names."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    given, device = crowd(pipeline, sizes, side, [TEXT_TOKENS]), pipeline.devices.transformer
    forward = partial(by_diffusers if stock else Pipeline.velocities, pipeline, given)
    forward()
    on_gpu = device.type == "cuda"
    with profiling(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        forward()
        if on_gpu:
            torch.cuda.synchronize(device)
    events = profiled.key_averages()
    # On a GPU an operator has the time of its kernels as well, and so has a region that is marked.
    kind, of_kind = ("CUDA", "self_device_time_total") if on_gpu else ("CPU", "self_cpu_time_total")
    kernels = {
        event.key: getattr(event, of_kind) / 1e6
        for event in events
        if event.device_type.name == kind and not event.is_user_annotation
    }
    whole = sum(kernels.values()) or 1.0
    top = sorted(kernels, key=kernels.__getitem__, reverse=True)[:TOP]
    return {
        "attention": [event.key for event in events if event.key.startswith(ATTENTION)],
        "top": [{"name": name, "seconds": kernels[name], "share": kernels[name] / whole} for name in top],
    }


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
