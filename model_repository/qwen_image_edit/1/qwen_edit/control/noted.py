"""A worker that notes what it is at, for the one that comes after its death."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from qwen_edit.conditioning.preparation import Prepared, Preparing
from qwen_edit.control.blame import Blame
from qwen_edit.forward.denoise import Denoising
from qwen_edit.job import Job, Result
from qwen_edit.pipeline import Devices
from qwen_edit.request import EditRequest
from qwen_edit.worker import Usage, Worker


class Noted:
    def __init__(self, worker: Worker, blame: Blame) -> None:
        self._worker = worker
        self._blame = blame

    @property
    def devices(self) -> Devices:
        return self._worker.devices

    @property
    def takes_turns(self) -> bool:
        return self._worker.takes_turns

    def expected_tokens(self, request: EditRequest) -> tuple[int, ...]:
        return self._worker.expected_tokens(request)

    def prepare(self, request: EditRequest, unwanted: Callable[[], bool]) -> Preparing:
        """Every advance is noted by the thread that makes it; between two of them nobody is at work."""
        preparing = self._worker.prepare(request, unwanted)
        while True:
            with self._blame.at_work(request.edit_id):
                try:
                    work = next(preparing)
                except StopIteration as end:
                    prepared: Prepared = end.value
                    return prepared
            yield work

    def fitting(self, jobs: Sequence[Job]) -> list[Job]:
        return self._worker.fitting(jobs)

    def encode(self, job: Job) -> Denoising:
        with self._blame.at_work(job.request.edit_id) as alone:
            state = self._worker.encode(job)
            self._settle(alone)
            return state

    def begin(self, job: Job) -> None:
        with self._blame.at_work(job.request.edit_id, keep=True) as alone:  # until the step that follows
            self._worker.begin(job)
            self._settle(alone)

    def step(self, jobs: Sequence[Job], *, rows_per_forward: int | None = None) -> None:
        """A note for every step would cost more than it tells: those of the same edits have one."""
        with self._blame.at_work(*(job.request.edit_id for job in jobs), keep=True) as alone:
            self._worker.step(jobs, rows_per_forward=rows_per_forward)
            self._settle(alone)

    def decode(self, job: Job) -> Result:
        with self._blame.at_work(job.request.edit_id):
            return self._worker.decode(job)

    def free_memory(self, *, encodings: bool) -> None:
        self._worker.free_memory(encodings=encodings)

    def usage(self) -> Usage:
        return self._worker.usage()

    def close(self) -> None:
        self._worker.close()

    def _settle(self, alone: bool) -> None:
        """A GPU has only been told what to do: let it die of that as long as the note says of whom."""
        devices = self._worker.devices
        for device in {devices.transformer, devices.text_encoder, devices.vae} if alone else ():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
