"""The engine in this process: built on a checkpoint, driven and watched by tests."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from qwen_edit.control.blame import Blame
from qwen_edit.control.noted import Noted
from qwen_edit.engine import UNBLAMED, Engine
from qwen_edit.families.sizes import Sizes
from qwen_edit.loading.assembly import bind, pipeline_of
from qwen_edit.pictures.decoders import Decoders
from qwen_edit.pipeline import Devices
from qwen_edit.request import EditRequest
from qwen_edit.worker import PipelineWorker

from tests.kit.in_process import Answer, Watch, WatchedWorker, wait_until

REFERENCE_AREA = 64 * 64
MAX_INPUT_PIXELS, MAX_PIXELS = 10**7, 10**6


class SharedDecoders(Decoders):
    """Of all engines of this process, with which they end: to start a pair costs more than most edits of a test."""

    def close(self) -> None:
        pass


shared_decoders = functools.cache(SharedDecoders)


class TestEngine:
    """An engine with its pipeline, and the final latents of every edit it finished."""

    __test__ = False

    def __init__(
        self, parts: Any, *, devices: Devices | None = None, reference_area: int = REFERENCE_AREA, max_jobs: int = 64,
        max_batch_tokens: int = 100_000, stretch: float = 3.0, blame: Blame | None = None,
        one_area: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.pipeline = pipeline_of(parts, devices)
        token_pixels = self.pipeline.token_pixels
        self.sizes = Sizes(self.pipeline.family, reference_area, token_pixels, one_area=one_area)
        self.watch = Watch()
        self.process_ended = threading.Event()
        settings: dict[str, Any] = {"cache_bytes": 2**24, "prefix_bytes": 2**28, "mrope": False}
        decoders = shared_decoders(MAX_INPUT_PIXELS, MAX_PIXELS)
        self.worker = WatchedWorker(PipelineWorker(self.pipeline, self.sizes, decoders, **(settings | options)))
        self.final_latents = self.worker.final_latents
        self.engine = Engine(
            Noted(self.worker, blame) if blame else self.worker, self.watch, max_jobs=max_jobs,
            max_batch_tokens=max_batch_tokens, stretch=stretch, blame=blame or UNBLAMED,
            end_process=lambda status: self.process_ended.set(),
        )  # fmt: skip

    def submit(self, request: EditRequest) -> Answer:
        answer = Answer()
        self.engine.submit(request, answer)
        return answer

    def latents(self, request: EditRequest) -> npt.NDArray[np.float32]:
        """Final latents of the edit run to its end."""
        self.submit(request).wait()
        return self.final_latents[request.id]


@contextlib.contextmanager
def engine_on(pipeline: Any, **options: Any) -> Iterator[TestEngine]:
    """On a pipeline as diffusers makes it."""
    running = TestEngine(pipeline, **options)
    try:
        yield running
    finally:
        running.engine.close()


def together_after_the_first_step(engine: TestEngine, edits: int) -> None:
    """The first to come makes its first step alone, and its second when all are encoded."""

    def hold() -> None:
        wait_until(lambda: engine.worker.prepared == edits)
        if len(engine.worker.batches) > 1:
            wait_until(lambda: engine.worker.encodings == edits)
        else:
            time.sleep(0.1)  # the last one is handed to the engine just after it was counted

    engine.worker.before_step = hold


def load_pipeline(folder: Path) -> Any:
    """As diffusers makes it, with our forward in the place of its own, which it still is where diffusers calls it."""
    from diffusers import DiffusionPipeline

    parts = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    bind(parts)
    return parts


_ids = iter(range(10**9))


def edit(*images: bytes, **changes: Any) -> EditRequest:
    """A request with small defaults, its id unique."""
    values: dict[str, Any] = {
        "id": f"edit-{next(_ids)}", "images": images, "prompt": "make the sky green", "negative_prompt": " ",
        "mask": None, "size": (64, 64), "num_inference_steps": 4, "true_cfg_scale": 1.0, "seed": 1, "start_step": 0,
        "stop_step": None, "latents": None, "preview": 0, "arrival": time.monotonic(), "dated": True,
    }  # fmt: skip
    values |= changes
    values["stop_step"] = values["num_inference_steps"] if values["stop_step"] is None else values["stop_step"]
    return EditRequest(**({"edit_id": values["id"]} | values))


def difference(ours: Any, reference: Any) -> float:
    """Largest difference over the reference's standard deviation."""
    a, b = (torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (ours, reference))
    return float((a - b).abs().max() / b.std())
