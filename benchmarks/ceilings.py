"""What a device can do at most at the model's own shapes: products, copies, attention; and its clocks meanwhile."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

WIDTH, HEADS = 3072, 24
TOKENS = {"cuda": 8192, "cpu": 64}  # of an output of 1024x1024 and its reference
TEXT_TOKENS = 260
# (inputs, outputs): queries, keys or values; all three; into the feed-forward and out of it
PRODUCTS = {"q": (1, 1), "qkv": (1, 3), "up": (1, 4), "down": (4, 1)}
KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip


@torch.inference_mode()
def measure(device: torch.device, seconds: float = 2.0) -> dict[str, Any]:
    """TFLOP/s, of copies GB/s; what a device or a kernel does not do is told in words."""
    found: dict[str, Any] = {"clocks before": clocks(device)}
    for name, work, done in works(device):
        found[name] = attempted(work, done / 1e12, device, seconds)
    found["clocks after"] = clocks(device)
    return found


def works(device: torch.device) -> list[tuple[str, Callable[[], Any], float]]:
    """Name, work, and the operations, or thousands of bytes, that it does."""
    tokens, dtype = TOKENS[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    found: list[tuple[str, Callable[[], Any], float]] = []
    for name, (inputs, outputs) in PRODUCTS.items():
        given = torch.randn(tokens, inputs * WIDTH, device=device, dtype=dtype)
        weight = torch.randn(outputs * WIDTH, inputs * WIDTH, device=device, dtype=dtype)
        bias = torch.randn(outputs * WIDTH, device=device, dtype=dtype)
        done = 2.0 * tokens * inputs * outputs * WIDTH**2
        found.append((f"{name}, {dtype}".replace("torch.", ""), product(given, weight, bias), done))
        if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
            found.append((f"{name}, fp8 by rows", product8(given, weight, bias), done))
    states = torch.randn(tokens, WIDTH, device=device, dtype=dtype)
    target = torch.empty_like(states)
    found.append(("a copy, GB/s", lambda: target.copy_(states), 2e3 * states.nbytes))
    length = tokens + TEXT_TOKENS
    heads = [torch.randn(1, HEADS, length, WIDTH // HEADS, device=device, dtype=dtype) for _ in range(3)]
    mask = torch.ones(1, 1, 1, length, dtype=torch.bool, device=device)
    mask[..., TEXT_TOKENS // 2 : TEXT_TOKENS] = False
    done = 4.0 * length**2 * WIDTH
    for masked in (None, mask):
        how = "attention" if masked is None else "attention under a mask"
        found.append((f"{how}, native", attention(heads, masked), done))
        found += [(f"{how}, {name}", attention(heads, masked, kernel), done) for name, kernel in KERNELS.items()
                  if name != "math" or device.type == "cpu"]  # fmt: skip
    return found


def product(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Callable[[], Any]:
    return lambda: torch.nn.functional.linear(given, weight, bias)


def product8(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Callable[[], Any]:
    left, right = given.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).t()
    scales = torch.ones(len(left), 1, device=given.device), torch.ones(1, right.shape[1], device=given.device)
    return lambda: torch._scaled_mm(left, right, *scales, bias=bias, out_dtype=given.dtype, use_fast_accum=True)


def attention(
    heads: list[torch.Tensor], mask: torch.Tensor | None, kernel: SDPBackend | None = None
) -> Callable[[], Any]:
    queries, keys, values = heads

    def work() -> torch.Tensor:
        with contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel):
            return scaled_dot_product_attention(queries, keys, values, attn_mask=mask)

    return work


def attempted(work: Callable[[], Any], done: float, device: torch.device, seconds: float) -> float | str:
    try:
        work()
        return done / sustained(work, device, seconds)
    except Exception as error:  # kernels raise almost anything
        return (str(error).splitlines() or [type(error).__name__])[0]


def sustained(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Seconds of one, the median of batches of ten that go on for so long: a card that heats up slows down."""
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    while not taken or time.perf_counter() < ends:
        started = time.perf_counter()
        for _ in range(10):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append((time.perf_counter() - started) / 10)
    return statistics.median(taken)


def clocks(device: torch.device) -> dict[str, Any] | str:
    """MHz, watts and degrees, where the driver's library is installed."""
    if device.type != "cuda":
        return "none"
    try:
        return {
            "MHz": torch.cuda.clock_rate(device), "watts": torch.cuda.power_draw(device) / 1000,
            "degrees": torch.cuda.temperature(device),
        }  # fmt: skip
    except Exception as error:
        return f"{type(error).__name__}: {error}"
