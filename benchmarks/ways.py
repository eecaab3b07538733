"""Whole edits on random weights: by the engine with a loading option, and by diffusers."""

from __future__ import annotations

import argparse
import io
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from qwen_edit.engine import Engine
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward.block import Halves, Paths
from qwen_edit.forward.denoise import Denoiser, Denoising
from qwen_edit.forward.lora_store import LoraStore
from qwen_edit.forward.prefix_store import PrefixStore
from qwen_edit.forward.sigmas import NoiseLevels
from qwen_edit.loading import attention, compiling, quantization
from qwen_edit.loading.assembly import accelerate
from qwen_edit.pictures.decoders import Decoders
from qwen_edit.request import EditRequest
from qwen_edit.settings import Loading
from qwen_edit.worker import PipelineWorker

from benchmarks import forwards, stages
from benchmarks.shortage import Shortage
from checkpoints.random_weights import build_pipeline
from shim.running.encode import encode
from tests.kit import stock
from tests.kit.in_process import Answer, Watch, WatchedWorker

PICTURE = Path(__file__).resolve().parents[1] / "tests" / "data" / "cat.jpg"
PROMPT, NEGATIVE = "paint the whole picture in bright orange and put a hat on the cat", "blurry, low quality"
GUIDANCE = 4.0
MAX_BATCH_TOKENS = 16_384
EAGER = Loading(compile=False)


@dataclass(frozen=True)
class Option:
    name: str
    loading: Loading
    edits: str = "none"  # which whole edits are timed beside the forwards: none, short ones, or all
    anew: bool = False  # with weights of its own, which what is done to them does not let others use


@dataclass(frozen=True)
class Case:
    size: int
    steps: int
    guided: bool

    def __str__(self) -> str:
        return f"{self.size}², {self.steps} steps{', guidance' if self.guided else ''}"


@dataclass
class Finished:
    seconds: float  # the whole edit, PNG included
    latents: np.ndarray[Any, Any]
    picture: np.ndarray[Any, Any]
    timings: dict[str, Any]


class Model:
    """A pipeline with random weights, always the same, that each option changes and the next one changes back."""

    def __init__(self, run: argparse.Namespace, loading: Loading = EAGER) -> None:
        """`loading` is what cannot be changed back."""
        self.device = torch.device(run.device)
        self._area = max(run.sizes) ** 2
        self._paths = Paths()
        self.parts: Any = build_pipeline(run.family, run.checkpoint.removesuffix("-random"), device=self.device)
        self.pipeline, self.checked = accelerate(self.parts, loading, self._area, self.device, self._paths)
        self._eager = replace(self._paths)
        self._compiled: Halves | None = None

    def use(self, loading: Loading) -> float:
        """Kernel of attention, compiled blocks, VAE in tiles, and for good a quantised transformer; seconds to compile.

        Raises LoadError.
        """
        transformer, paths = self.parts.transformer, self._paths
        transformer.reset_attention_backend()
        attention.set_backend(transformer, loading.attention_backend, self.device)
        paths.varlen = self._eager.varlen if loading.attention_backend == "native" else None
        paths.halves = self._eager.halves
        (self.parts.vae.enable_tiling if loading.vae_tiling else self.parts.vae.disable_tiling)()
        if loading.quantization != "none":
            self._quantise(loading.quantization)
        return self._compile() if loading.compile is True else 0.0

    def _quantise(self, kind: str) -> None:
        quantization.check(quantization.TRANSFORMER, kind, self.device)
        self._paths.joint = self._eager.joint = {}  # of the weights as they were
        self._compiled = None
        torch.compiler.reset()
        quantization.quantize(self.parts, quantization.TRANSFORMER, kind, self.device)

    def _compile(self) -> float:
        """Attention is outside of it: no kernel of attention compiles anything again."""
        started = time.perf_counter()
        self._paths.halves = self._compiled = self._compiled or compiling.compiled_halves()
        compiling.warm_up(self.pipeline, self._area)
        return time.perf_counter() - started

    def _sizes(self, side: int) -> Sizes:
        """References are encoded at the area of the output."""
        return Sizes(self.pipeline.family, side * side, self.pipeline.token_pixels)

    def forwards(self, side: int, repeats: int, *, stock: bool = False) -> dict[str, Any]:
        return forwards.measure(self.pipeline, self._sizes(side), side, repeats, stock=stock)

    def profile(self, side: int, *, stock: bool = False) -> dict[str, Any]:
        return forwards.profile(self.pipeline, self._sizes(side), side, stock=stock)

    def new_lengths(self, side: int) -> dict[str, float]:
        return forwards.new_lengths(self.pipeline, self._sizes(side), side)

    def stages(self, repeats: int) -> dict[str, float]:
        side = math.isqrt(self._area)
        return stages.measure(self.pipeline, self._sizes(side), side, PICTURE.read_bytes(), PROMPT, repeats)

    def rounding(self) -> dict[str, float]:
        side = math.isqrt(self._area)
        return stages.rounding(self.pipeline, self._sizes(side), side)

    @torch.inference_mode()
    def host_waits(self, side: int) -> list[str] | None:
        """Where the host waits for the GPU in one guided step, as CUDA tells it."""
        geometry = self._sizes(side).geometry([(side, side)], (side, side), masked=False)
        pipeline, tokens = self.pipeline, geometry.tokens
        output, reference = (torch.randn(n, pipeline.token_channels, device=self.device) for n in tokens)
        text_channels = pipeline.parts.transformer.config.joint_attention_dim
        text = torch.randn(40, text_channels, device=self.device, dtype=pipeline.dtype)
        state = Denoising(
            geometry=geometry, latents=output, references=(reference,), text=text, negative_text=text[:30].clone(),
            true_cfg_scale=GUIDANCE, sigmas=NoiseLevels(pipeline.scheduler).sigmas(4, tokens[0]), step=0,
        )  # fmt: skip
        denoiser = Denoiser(pipeline, PrefixStore(0), LoraStore(pipeline, 0))
        denoiser.step([state])
        return forwards.host_waits(lambda: denoiser.step([state]), self.device)

    def short_of_memory(self, side: int) -> dict[str, Any]:
        """A guided edit with room for one row at a time, against the same with room for both."""
        case = Case(side, 2, True)
        whole = self.edit(case)
        shortage = Shortage(self.pipeline, self._sizes(side), side)
        with shortage.entered():
            edited = self.edit(case)
        return {
            "forwards": shortage.forwards, "bytes of 1 and 2 rows": list(shortage.needed.values()),
            "against room for both": error_against(edited, whole),
        }  # fmt: skip

    def edit(self, case: Case) -> Finished:
        return self.edits([request(case)])[0]

    def edits(self, requests: list[EditRequest]) -> list[Finished]:
        """All sent at once; each one's seconds are those of all."""
        sizes = self._sizes(request_side(requests[0]))
        worker = WatchedWorker(PipelineWorker(self.pipeline, sizes, Decoders(10**8, 10**8), cache_bytes=0, mrope=False))
        engine = Engine(worker, Watch(), max_jobs=1000, max_batch_tokens=MAX_BATCH_TOKENS)
        try:
            started = time.perf_counter()
            answers = [Answer() for _ in requests]
            for each, answer in zip(requests, answers, strict=True):
                engine.submit(each, answer)
            outcomes = [answer.wait(600) for answer in answers]
            for outcome in outcomes:
                encode(as_picture(outcome.image), "png", 100)
            seconds = time.perf_counter() - started
        finally:
            engine.close()
        return [
            Finished(seconds, worker.final_latents[outcome.request.id], as_picture(outcome.image), outcome.timings)
            for outcome in outcomes
        ]

    def stock(self, case: Case) -> Finished:
        """The same edit by diffusers, but for the VAE, which is ours: it is faster than diffusers' by that."""
        given = request(case)
        kept: list[Any] = []

        def keep(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            kept[:] = [values["latents"]]
            return values

        started = time.perf_counter()
        with stock.areas(self._sizes(case.size)):
            image = stock.run(
                self.pipeline.parts, [Image.open(io.BytesIO(picture)).convert("RGB") for picture in given.images],
                prompt=given.prompt, negative_prompt=given.negative_prompt if case.guided else None,
                true_cfg_scale=given.true_cfg_scale, size=given.size, num_inference_steps=case.steps, seed=given.seed,
                output_type="np", callback_on_step_end=keep,
            )  # fmt: skip
        levels = np.rint(np.asarray(image) * 255).astype(np.uint8)
        encode(levels, "png", 100)
        return Finished(time.perf_counter() - started, kept[0][0].float().cpu().numpy(), levels, {})


def as_picture(image: Any) -> np.ndarray[Any, Any]:
    assert image is not None
    return np.asarray(image)


def request(case: Case, seed: int = 1) -> EditRequest:
    return EditRequest(
        id=f"{case} {seed}", edit_id=f"{case} {seed}", images=(PICTURE.read_bytes(),), mask=None,
        prompt=PROMPT, negative_prompt=NEGATIVE,
        size=(case.size, case.size), num_inference_steps=case.steps, true_cfg_scale=GUIDANCE if case.guided else 1.0,
        seed=seed, start_step=0, stop_step=case.steps, latents=None, preview=0, arrival=0.0,
    )  # fmt: skip


def request_side(given: EditRequest) -> int:
    assert given.size is not None
    return given.size[0]


def error_against(ours: Finished, reference: Finished | None) -> dict[str, float | None]:
    """Relative root mean square error of the latents; PSNR of the picture in dB, None where it is equal."""
    if reference is None:
        raise RuntimeError("there is no reference")
    relative = np.linalg.norm(ours.latents - reference.latents) / np.linalg.norm(reference.latents)
    square = float(np.mean((ours.picture.astype(float) - reference.picture.astype(float)) ** 2))
    return {"latents": float(relative), "psnr": 10 * math.log10(255**2 / square) if square else None}
