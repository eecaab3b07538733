"""The engine: continuous batching of denoising steps.

One thread owns the model. It takes the oldest job and those that fit beside it, moves them one step on, answers the
ones that are done, and looks again: jobs join and leave between steps.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from qwen_edit.cache import TensorCache
from qwen_edit.clock import StepClock
from qwen_edit.conditioning import Conditioner
from qwen_edit.decoding import Decoder
from qwen_edit.denoise import Denoiser, Denoising, Inpainting
from qwen_edit.device_errors import DeviceError, is_device_error
from qwen_edit.errors import BadRequest, Cancelled, Draining, EditError, Failed, QueueFull
from qwen_edit.families import Geometry, Sizes
from qwen_edit.job import Job, Outcome, Reply
from qwen_edit.metrics import Metrics
from qwen_edit.pace import Pace
from qwen_edit.placement import Devices
from qwen_edit.preparation import Preparer
from qwen_edit.request import EditRequest
from qwen_edit.schedule import next_batch
from qwen_edit.sigmas import SigmaSchedule
from qwen_edit.stepping import Stepper, free_memory

log = logging.getLogger("image_edit_server")

HEARTBEAT_SECONDS = 1.0
CANCELLATION_SECONDS = 0.5  # how often waiting edits are asked whether their client is still there
FAILURES_IN_A_ROW = 5  # edits that failed with no good step between them: the fault is the device's, not theirs


class Engine:
    def __init__(
        self,
        pipeline: Any,
        sizes: Sizes,
        metrics: Metrics,
        *,
        max_jobs: int,
        max_batch_tokens: int,
        max_input_pixels: int,
        cache_bytes: int,
        end_process: Callable[[int], object] = os._exit,
        mrope: bool = True,
        devices: Devices | None = None,
        unpadded_row_tokens: int = 2**31,
    ) -> None:
        devices = devices or Devices.of(pipeline)
        self._pipeline = pipeline
        self._sizes = sizes
        self._metrics = metrics
        self._max_jobs = max_jobs
        self._end_process = end_process
        self._conditioner = Conditioner(pipeline, TensorCache(cache_bytes), devices, mrope=mrope)
        self._denoiser = Denoiser(pipeline, devices.transformer, unpadded_row_tokens)
        self._stepper = Stepper(self._denoiser, max_batch_tokens, self._fail)
        self._clock = StepClock(devices.transformer, self._stepped)
        self._decoder = Decoder(pipeline, devices.vae)
        self._schedule = SigmaSchedule(pipeline.scheduler)
        self._pace = Pace()
        self._numbers = itertools.count()
        self._jobs: set[Job] = set()  # every job that has not been answered
        self._prepared: list[Job] = []  # those that may be scheduled; the engine thread's own
        self._arrivals: list[Job] = []  # prepared ones on their way there
        self._ask_everybody_at = 0.0
        self._failures_in_a_row = 0
        self._draining = False
        self._closed = False
        self._changed = threading.Condition()  # guards _jobs, _arrivals, _draining, _closed
        self._preparer = Preparer(
            sizes,
            self._conditioner,
            channels=pipeline.transformer.config.in_channels,
            max_input_pixels=max_input_pixels,
            done=self._on_prepared,
        )
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EditRequest, reply: Reply) -> None:
        """Takes the job and returns at once; raises QueueFull or Draining. A continued edit is always taken."""
        with self._changed:
            if not request.continued:
                self._refuse_when_full()
            job = Job(request, reply, next(self._numbers), self._sizes.multiple)
            self._jobs.add(job)
        self._preparer.submit(job)

    def drain(self) -> None:
        """Refuses new edits from now on; those under way, and continued ones, are still served."""
        with self._changed:
            self._draining = True

    def close(self) -> None:
        """Drains, finishes the jobs it has, and ends the threads."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._preparer.close()

    def _refuse_when_full(self) -> None:
        if self._draining:
            self._metrics.edit("refused")
            raise Draining("the server is stopping: send the edit to another, or again later")
        if len(self._jobs) >= self._max_jobs:
            self._metrics.edit("refused")
            raise QueueFull(
                f"{len(self._jobs)} edits are waiting or running, at most {self._max_jobs} are taken: "
                f"retry in {self._pace.retry_seconds(self._jobs)} s"
            )

    def _on_prepared(self, job: Job, error: EditError | None) -> None:
        """Called on the preparer's thread."""
        if error is not None:
            self._answer_with_error(job, error)
            return
        with self._changed:
            self._arrivals.append(job)
            self._changed.notify_all()

    @torch.inference_mode()
    def _run(self) -> None:
        if self._denoiser.device.type == "cuda":
            torch.cuda.set_device(self._denoiser.device)
        while self._is_open():
            try:
                self._report()
                if self._await_work():
                    self._report()  # what comes now can take longer than a heartbeat
                self._drop_cancelled()
                self._tick()
            except Exception as error:
                if is_device_error(error):
                    self._end_unanswered(error)
                    return
                # A bug of ours must not leave callers waiting for ever.
                log.exception("the engine failed outside of any one edit")
                for job in list(self._prepared):
                    self._finish_with_error(job, Failed("the engine failed"))

    def _end_unanswered(self, error: Exception) -> None:
        """Ends the process, in which no edit can succeed any more; whoever waits for one sends it again."""
        reason = str(error).split("\n", 1)[0]
        log.critical("the device failed, this worker ends, its edits (%d) unanswered: %s", len(self._jobs), reason)
        self._end_process(1)

    def _is_open(self) -> bool:
        with self._changed:
            return bool(self._jobs) or not self._closed

    def _report(self) -> None:
        running = sum(job.state is not None for job in self._prepared)
        cache = self._conditioner.cache
        self._metrics.heartbeat(time.time())
        self._metrics.jobs(len(self._jobs) - running, running)
        self._metrics.cache(cache.hits, cache.misses, cache.bytes)
        if self._denoiser.device.type == "cuda":
            self._metrics.gpu_peak(torch.cuda.max_memory_allocated(self._denoiser.device))

    def _await_work(self) -> bool:
        """Takes over what has been prepared; waits for it, a heartbeat long, where there is nothing else to do.

        Whether it has waited for it.
        """
        with self._changed:
            idle = not self._prepared and not self._arrivals
            if idle and not (self._closed and not self._jobs):
                self._changed.wait(HEARTBEAT_SECONDS)
            self._prepared += self._arrivals
            self._arrivals.clear()
            return idle and bool(self._prepared)

    def _drop_cancelled(self) -> None:
        """Asks about running edits before each of their steps, about waiting ones now and then: asking has a price."""
        everybody = time.monotonic() >= self._ask_everybody_at
        if everybody:
            self._ask_everybody_at = time.monotonic() + CANCELLATION_SECONDS
        for job in list(self._prepared):
            if (everybody or job.state is not None) and job.reply.cancelled():
                self._finish_with_error(job, Cancelled("the client cancelled this edit"))

    def _tick(self) -> None:
        """One step for the next batch, and the answers of those that are done."""
        batch = [job for job in next_batch(self._prepared, self._stepper.budget) if self._encoded(job)]
        if not batch:
            return
        for job in self._timed_step(batch):
            if job.running.step >= job.request.stop_step:
                self._finish(job)

    def _encoded(self, job: Job) -> bool:
        """Encodes the job where it has no state yet; False where that failed and was answered."""
        if job.state is not None:
            return True
        started = time.monotonic()
        job.times.queue = started - job.times.submitted
        misses = self._conditioner.cache.misses
        try:
            job.state = self._with_memory(lambda: self._encode(job))
        except Exception as error:
            self._fail(job, error)
            return False
        job.forget_inputs()
        job.times.encode = time.monotonic() - started
        job.times.cache_hit = self._conditioner.cache.misses == misses
        self._metrics.seconds("queue", job.times.queue)
        self._metrics.seconds("encode", job.times.encode)
        return True

    def _encode(self, job: Job) -> Denoising:
        ready, request = job.ready, job.request
        conditioner = self._conditioner
        noise = self._noise(request.seed, ready.geometry)
        latents = noise if request.latents is None else torch.from_numpy(request.latents).to(noise.device)
        negative = ready.negative_prompt
        return Denoising(
            geometry=ready.geometry,
            latents=latents,
            references=tuple(
                conditioner.latents(reference, size)
                for reference, size in zip(ready.references, ready.geometry.references, strict=True)
            ),
            text=conditioner.text_embeddings(ready.prompt, ready.references),
            negative_text=conditioner.text_embeddings(negative, ready.references) if negative else None,
            true_cfg_scale=request.true_cfg_scale,
            sigmas=self._schedule.sigmas(request.num_inference_steps, job.output_tokens),
            step=request.start_step,
            inpainting=self._inpainting(job, noise),
            keep_clean_at=request.stop_step if request.preview else None,
        )

    def _noise(self, seed: int, geometry: Geometry) -> torch.Tensor:
        """Packed (tokens, channels) float32, drawn on the CPU in the unpacked shape, as diffusers draws it."""
        width, height = (2 * (side // self._sizes.multiple) for side in geometry.output)
        channels = self._pipeline.latent_channels
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = torch.randn((1, 1, channels, height, width), generator=generator, dtype=torch.float32)
        packed = self._pipeline._pack_latents(drawn, 1, channels, height, width)
        return packed[0].to(self._denoiser.device)  # type: ignore[no-any-return]

    def _inpainting(self, job: Job, noise: torch.Tensor) -> Inpainting | None:
        mask, reference = job.ready.mask, job.ready.references[0]
        if mask is None:
            return None
        source = self._conditioner.latents(reference, job.geometry.output).float()
        region = mask.latent_region(
            self._pipeline.vae_scale_factor, self._pipeline.latent_channels, self._pipeline._pack_latents
        )
        return Inpainting(region.to(noise.device), noise, source)

    def _timed_step(self, batch: list[Job]) -> list[Job]:
        """The jobs that were moved on; the others failed and were answered, or wait for the next step."""
        return self._clock.run(lambda: self._stepper.step(batch))

    def _stepped(self, advanced: list[Job], elapsed: float) -> None:
        """Told by the clock; on a GPU a step later."""
        rows = sum(job.rows for job in advanced)
        for job in advanced:
            job.times.denoise += elapsed
            job.times.steps += 1
            job.times.rows += rows
        if advanced:
            self._failures_in_a_row = 0
            self._pace.stepped(len(advanced), elapsed)
            self._metrics.step(len(advanced), rows)
            self._metrics.seconds("denoise", elapsed)

    def _finish(self, job: Job) -> None:
        self._clock.settle()
        started = time.monotonic()
        try:
            answer = self._with_memory(lambda: self._decoded(job))
        except Exception as error:
            self._fail(job, error)
            return
        job.times.decode = time.monotonic() - started
        self._metrics.seconds("decode", job.times.decode)
        stopped = "latents" in answer
        if not stopped:
            self._metrics.edit("finished")
        log.log(
            logging.DEBUG if stopped else logging.INFO,
            "edit %s: %s after step %d of %d, %.3f s a step in %.1f rows, queue %.3f s, encode %.3f s, decode %.3f s",
            job.request.id, "stopped" if stopped else "finished", job.running.step, job.request.num_inference_steps,
            job.times.denoise / job.times.steps, job.times.rows / job.times.steps,
            job.times.queue, job.times.encode, job.times.decode,
        )  # fmt: skip
        outcome = Outcome(job.request, job.running.step, job.timings(), **answer)
        self._prepared.remove(job)
        self._answer(job, lambda: job.reply.outcome(outcome))

    def _decoded(self, job: Job) -> dict[str, Any]:
        """The `image` of a finished job; `latents` and perhaps a `preview` of a stopped one."""
        state, size = job.running, job.geometry.output
        latents = state.latents.cpu().numpy()
        if not np.isfinite(latents).all():
            raise Failed("the model produced NaN or infinite values for this edit")
        if state.step >= job.request.num_inference_steps:
            image = self._decoder.picture(state.latents, size)
            mask = job.ready.mask
            return {"image": mask.composite(image, self._pipeline.vae_scale_factor) if mask else image}
        preview = None if state.clean is None else self._decoder.preview(state.clean, size, job.request.preview)
        return {"latents": latents, "preview": preview}

    def _with_memory(self, work: Callable[[], Any]) -> Any:
        """`work()`, tried once more with freed memory where it ran out."""
        try:
            return work()
        except torch.OutOfMemoryError:
            log.warning("out of memory while encoding or decoding: freeing the cache")
        # Not in the `except`: the error's traceback keeps all that the failed work has allocated.
        self._conditioner.cache.clear()
        free_memory(self._denoiser.device)
        return work()

    def _fail(self, job: Job, error: Exception) -> None:
        """Answers the job whose own failure it is; raises the device's."""
        if is_device_error(error):
            raise error
        failure = _failure(error, job)
        if not isinstance(error, EditError | torch.OutOfMemoryError):
            self._failures_in_a_row += 1
            if self._failures_in_a_row == FAILURES_IN_A_ROW:
                raise DeviceError(f"{FAILURES_IN_A_ROW} edits in a row failed, the last with {type(error).__name__}")
        self._finish_with_error(job, failure)

    def _finish_with_error(self, job: Job, error: EditError) -> None:
        self._prepared.remove(job)
        self._answer_with_error(job, error)

    def _answer_with_error(self, job: Job, error: EditError) -> None:
        outcome = {Cancelled: "cancelled", BadRequest: "refused"}.get(type(error), "failed")
        self._metrics.edit(outcome)
        log.info("edit %s: %s", job.request.id, error.message)
        self._answer(job, lambda: job.reply.error(error))

    def _answer(self, job: Job, send: Callable[[], None]) -> None:
        """The job is forgotten before it is answered: who gets the answer finds its place free."""
        with self._changed:
            self._jobs.remove(job)
            self._changed.notify_all()
        try:
            send()
        except Exception:
            log.exception("the answer of edit %s could not be sent", job.request.id)


def _failure(error: Exception, job: Job) -> EditError:
    """What the client is told; the whole of it is in the log."""
    if isinstance(error, EditError):
        return error
    log.error("edit %s failed", job.request.id, exc_info=error)
    if isinstance(error, torch.OutOfMemoryError):
        return Failed("out of memory: ask for a smaller size or fewer reference images")
    return Failed("the model failed on this edit")
