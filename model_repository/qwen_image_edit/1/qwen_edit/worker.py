"""What is computed for a job; when, and for whom together, is the engine's to decide."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from qwen_edit.conditioning.cache import ConditioningCache
from qwen_edit.conditioning.captions import Captions
from qwen_edit.conditioning.conditioner import Conditioner
from qwen_edit.conditioning.preparation import Preparation, Prepared, Preparing
from qwen_edit.conditioning.texts import Prompts
from qwen_edit.errors import Failed
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward.denoise import Denoiser, Denoising, Inpainting, skip
from qwen_edit.forward.lora_store import LoraStore, needed_bytes
from qwen_edit.forward.prefix_store import Prefix, PrefixStore
from qwen_edit.forward.replicas import Replicas
from qwen_edit.forward.sigmas import NoiseLevels
from qwen_edit.forward.skipping import skipped
from qwen_edit.job import Job, Result
from qwen_edit.loading.lora_files import LoraFiles
from qwen_edit.loading.loras import Loras
from qwen_edit.metrics.protocol import PrefixUsage
from qwen_edit.pictures import decoding
from qwen_edit.pictures.decoders import Decoders
from qwen_edit.pipeline import Devices, Pipeline
from qwen_edit.request import EditRequest


@dataclass(frozen=True)
class Usage:
    """Since the start, but for the bytes."""

    cache_hits: int
    cache_misses: int
    cache_bytes: int  # held
    gpu_peak_bytes: int
    prefixes: PrefixUsage


class Worker(Protocol):
    """`encode` and `decode` are called from one thread, `prepare` from others, and the rest from the one that steps;
    `free_memory` while nothing else is under way."""

    @property
    def devices(self) -> Devices:
        """That the steps are made on, and what is encoded and decoded."""

    @property
    def takes_turns(self) -> bool:
        """Whether nothing may be encoded or decoded while a step is made."""

    def expected_tokens(self, request: EditRequest) -> tuple[int, ...]:
        """About the tokens of each of its rows, without a picture decoded; raises BadRequest."""

    def prepare(self, request: EditRequest, unwanted: Callable[[], bool]) -> Preparing:
        """Decodes and checks; raises BadRequest, and Cancelled once it is `unwanted`."""

    def fitting(self, jobs: Sequence[Job]) -> list[Job]:
        """The first of these prepared jobs, and those for which there is memory in the same step."""

    def encode(self, job: Job) -> Denoising:
        """The state of a waiting job before its first step."""

    def begin(self, job: Job) -> None:
        """What the first step of an encoded job needs of the transformer."""

    def step(self, jobs: Sequence[Job], *, rows_per_forward: int | None = None) -> None:
        """Moves every running job one step on; none is changed where this raises."""

    def decode(self, job: Job) -> Result:
        """What a job answers after the last step of its run; raises Failed where the model made no numbers."""

    def free_memory(self, *, encodings: bool) -> None:
        """Gives back what is only kept for speed: memory, and with `encodings` what no job holds of these."""

    def usage(self) -> Usage: ...

    def close(self) -> None: ...


class PipelineWorker:
    def __init__(
        self,
        pipeline: Pipeline,
        sizes: Sizes,
        decoders: Decoders,
        *,
        cache_bytes: int,
        prefix_bytes: int = 0,
        lora_files: LoraFiles | None = None,
        lora_bytes: int = 0,
        mrope: bool = True,
        takes_turns: bool = False,
        replicas: Replicas | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._device = pipeline.devices.transformer
        self.takes_turns = takes_turns
        self._decoders = decoders
        self._prefixes = PrefixStore(prefix_bytes, keeps=cache_bytes > 0)
        self._loras = LoraStore(pipeline, lora_bytes, replicas.others if replicas else ())
        self._conditioner = Conditioner(
            pipeline, ConditioningCache(cache_bytes), self._prefixes, self._loras, mrope=mrope
        )
        self._preparation = Preparation(
            sizes, Prompts(pipeline), Captions(pipeline), self._conditioner, decoders,
            Loras(lora_files, pipeline, lora_bytes) if lora_files else None, channels=pipeline.token_channels,
        )  # fmt: skip
        self._replicas = replicas
        self._denoiser = Denoiser(pipeline, self._prefixes, self._loras, replicas)
        by_root = pipeline.family.shifts_by_root
        self._levels = NoiseLevels(pipeline.scheduler, pipeline.sample_sigmas, by_root=by_root)

    @property
    def devices(self) -> Devices:
        return self._pipeline.devices

    def expected_tokens(self, request: EditRequest) -> tuple[int, ...]:
        return self._preparation.expected_tokens(request)

    def prepare(self, request: EditRequest, unwanted: Callable[[], bool]) -> Preparing:
        return self._preparation.prepare(request, unwanted)

    def fitting(self, jobs: Sequence[Job]) -> list[Job]:
        chosen: list[Job] = []
        needed: dict[Hashable, int] = {}
        for job in jobs:
            together = needed | self._conditioner.prefix_bytes(job.prepared.prompts)
            adapters = needed_bytes(each.prepared.adapters for each in (*chosen, job))
            fits = sum(together.values()) <= self._prefixes.max_bytes and adapters <= self._loras.max_bytes
            if not chosen or fits:
                chosen.append(job)
                needed = together
        self._prefixes.next_step(needed)
        self._loras.make_room(lora for job in chosen for lora, _ in job.prepared.adapters)
        return chosen

    def encode(self, job: Job) -> Denoising:
        prepared, request, geometry, conditioner = job.prepared, job.request, job.geometry, self._conditioner
        noise = self._pipeline.noise(request.seed, geometry.output, geometry.frames)
        negative = prepared.negative_prompt
        state = Denoising(
            geometry=geometry,
            latents=noise if request.latents is None else torch.from_numpy(request.latents).to(self._device),
            references=()
            if self._pipeline.family.has_prefix
            else tuple(
                conditioner.latents(reference, size)
                for reference, size in zip(prepared.references, geometry.references, strict=True)
            ),
            text=conditioner.text_embeddings(prepared.prompt, prepared.seen),
            negative_text=conditioner.text_embeddings(negative, prepared.seen) if negative else None,
            true_cfg_scale=request.true_cfg_scale,
            sigmas=self._levels.sigmas(request.num_inference_steps, geometry.frame_tokens),
            step=request.start_step,
            inpainting=self._inpainting(prepared, noise),
            keep_clean_at=request.stop_step if request.preview else None,
            stop=request.stop_step,
            skipped=skipped(request.num_inference_steps, request.cache),
            velocity=None if request.history is None else torch.from_numpy(request.history).to(self._device),
            adapters=prepared.adapters,
        )
        skip(state)
        return state

    def begin(self, job: Job) -> None:
        for condition in (job.state.text, job.state.negative_text):
            if isinstance(condition, Prefix):
                self._prefixes.begin(condition)

    def step(self, jobs: Sequence[Job], *, rows_per_forward: int | None = None) -> None:
        self._denoiser.step([job.state for job in jobs], rows_per_forward=rows_per_forward)

    def decode(self, job: Job) -> Result:
        state, geometry, pipeline = job.state, job.geometry, self._pipeline
        latents = state.latents.cpu().numpy()
        if not np.isfinite(latents).all():
            raise Failed("the model produced NaN or infinite values for this edit")
        if job.finished and pipeline.family.layers:
            return Result(layers=decoding.layers(pipeline, state.latents, geometry))
        if job.finished:
            picture, mask = decoding.picture(pipeline, state.latents, geometry), job.prepared.mask
            image, alpha = decoding.apart(mask.composite(picture, pipeline.latent_pixels) if mask else picture)
            return Result(image=image, alpha=alpha)
        kept = state.velocity if state.step in state.skipped else None
        history = None if kept is None else kept.cpu().numpy()
        if state.clean is None:
            return Result(latents=latents, history=history)
        preview = decoding.preview(pipeline, state.clean, geometry, job.request.preview)
        return Result(latents=latents, history=history, preview=decoding.on_white(preview))

    def free_memory(self, *, encodings: bool) -> None:
        self._prefixes.give_back()
        self._loras.give_back()
        if encodings:
            self._conditioner.cache.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def usage(self) -> Usage:
        cache = self._conditioner.cache
        peak = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        return Usage(cache.hits, cache.misses, cache.bytes, peak, self._prefixes.usage)

    def close(self) -> None:
        self._decoders.close()
        if self._replicas:
            self._replicas.close()

    def _inpainting(self, prepared: Prepared, noise: torch.Tensor) -> Inpainting | None:
        if prepared.mask is None:
            return None
        pipeline = self._pipeline
        source = self._conditioner.latents(prepared.references[0], prepared.geometry.output).float()
        region = prepared.mask.latent_region(pipeline.latent_pixels, whole=pipeline.family.edits_whole_latents)
        region = region.repeat(1, pipeline.latent_channels, 1, 1)
        return Inpainting(pipeline.pack(region).to(self._device), noise, source)
