"""A guided edit whose two rows do not fit into the memory together: it is to come out right all the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.families.sizes import Sizes
from qwen_edit.pipeline import Pipeline, Row

from benchmarks import forwards

ONE, TWO = (forwards.TEXT_TOKENS,), (forwards.TEXT_TOKENS, forwards.TEXT_TOKENS)


class Shortage:
    """Room for a forward of one row, but not of two, while `entered`. On a CPU, without limits, two are refused."""

    def __init__(self, pipeline: Pipeline, sizes: Sizes, side: int) -> None:
        self._transformer: Any = pipeline.parts.transformer
        self._device = pipeline.devices.transformer
        self.forwards: list[dict[str, Any]] = []
        self.needed = {
            len(texts): self._bytes_of(pipeline, forwards.crowd(pipeline, sizes, side, texts)) for texts in (ONE, TWO)
        }
        self._allowed = 0  # bytes; known at the first forward, so that what a failed one leaves behind counts

    @torch.inference_mode()
    def _bytes_of(self, pipeline: Pipeline, rows: list[Row]) -> int:
        """That a forward takes at the most, beside what there was."""
        pipeline.velocities(rows)  # what stays is allocated
        if self._device.type != "cuda":
            return 0
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        pipeline.velocities(rows)
        return torch.cuda.max_memory_allocated(self._device) - before

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        whole = self._transformer.forward

        def short(rows: list[Row]) -> Any:
            noted = {"rows": len(rows), "out of memory": False}
            self.forwards.append(noted)
            try:
                with self._limited(len(rows)):
                    return whole(rows=rows)
            except Exception as error:
                noted["out of memory"] = is_out_of_memory(error)
                raise

        self._transformer.forward = short
        try:
            yield
        finally:
            self._transformer.forward = whole

    @contextlib.contextmanager
    def _limited(self, rows: int) -> Iterator[None]:
        """For a forward alone: encoding and decoding have what they need."""
        if self._device.type != "cuda":
            if rows > 1:
                raise torch.OutOfMemoryError("CUDA out of memory, by way of trial")
            yield
            return
        torch.cuda.empty_cache()
        if not self._allowed:
            self._allowed = torch.cuda.memory_allocated(self._device) + (self.needed[1] + self.needed[2]) // 2
        _, whole = torch.cuda.mem_get_info(self._device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, self._allowed / whole), self._device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self._device)
