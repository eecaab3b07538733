"""A job from phase to phase, and what it holds in each."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from qwen_edit.job import Job, Phase

from tests.kit.engines import edit, engine_on, load_pipeline
from tests.kit.in_process import Answer, prepared, wait_until


def test_a_job_that_runs_holds_its_pictures_no_more(
    checkpoint: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    job = Job(edit(photo("cat"), num_inference_steps=4), Answer(), 1)
    with engine_on(load_pipeline(checkpoint("plus"))) as engine, torch.inference_mode():
        worker = engine.worker
        assert (job.phase, job.steps_left) == (Phase.PREPARING, 4)
        job.queue(prepared(worker.prepare(job.request, lambda: job.unwanted)))
        assert (job.phase, len(job.prepared.references), len(job.request.images)) == (Phase.WAITING, 1, 1)
        job.start(worker.encode(job))
        assert (job.phase, job.prepared.references, job.request.images) == (Phase.ENCODED, (), ())
        worker.step([job])
        assert (job.steps_left, job.finished) == (3, False)


def test_a_job_that_was_answered_is_kept_by_no_thread_that_waits_for_another(
    checkpoint: Callable[[str], Path], photo: Callable[[str], bytes]
) -> None:
    jobs: list[weakref.ref[Job]] = []
    with engine_on(load_pipeline(checkpoint("plus"))) as engine:
        engine.worker.before_encoding = lambda job: jobs.append(weakref.ref(job))
        for _ in range(4):
            engine.submit(edit(photo("cat"))).wait()
        wait_until(lambda: [job() for job in jobs] == [None] * 4)
