"""A step makes do with the memory there is, whatever takes it, and then tries for more again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
import torch
from qwen_edit.beside.shared_device import SharedDevice
from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.job import Job
from qwen_edit.stepping import RECOVERY_STEPS, Stepper
from qwen_edit.worker import Worker

from tests.kit.engines import edit
from tests.kit.in_process import Answer, wait_until

BUDGET = 100


class Memory:
    """A worker that is nothing but memory, for so many tokens in a forward."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.forwards: list[int] = []  # tokens of each that was tried
        self.freed = 0
        self.broken: Job | None = None  # whose step fails, whatever there is

    def step(self, jobs: Sequence[Job], *, rows_per_forward: int | None = None) -> None:
        rows = [tokens for job in jobs for tokens in job.row_tokens]
        for start in range(0, len(rows), rows_per_forward or len(rows)):
            tokens = sum(rows[start : start + (rows_per_forward or len(rows))])
            fits = tokens <= self.room
            self.forwards.append(tokens)
            if not fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
        if self.broken in jobs:
            raise ValueError("of this edit")

    def free_memory(self, *, encodings: bool) -> None:
        self.freed += 1


class Stepping:
    """A stepper on a device that others may share."""

    def __init__(self, room: int) -> None:
        self.memory = Memory(room)
        self.device = SharedDevice(lambda: None)
        self.failed: list[tuple[Job, Exception]] = []
        self.stepper = Stepper(
            cast("Worker", self.memory), self.device, BUDGET, lambda job, error: self.failed.append((job, error))
        )

    def step(self, *jobs: Job) -> list[int]:
        """Tokens of the forwards that were tried."""
        self.memory.forwards.clear()
        self.stepper.step(list(jobs))
        return list(self.memory.forwards)


_numbers: Iterator[int] = iter(range(10**9))


def job(*row_tokens: int) -> Job:
    return Job(edit(b""), Answer(), next(_numbers), expected=row_tokens)


def test_an_edit_that_runs_row_by_row_is_tried_again_without_the_company_that_took_its_memory() -> None:
    stepping = Stepping(room=40)
    guided = job(40, 40)
    assert stepping.step(guided) == [80, 40, 40]
    inside = threading.Event()

    def encode() -> None:
        with stepping.device.shared():
            stepping.memory.room = 20
            stepping.memory.forwards.clear()
            inside.set()
            wait_until(lambda: stepping.memory.forwards != [])
            stepping.memory.room = 40

    encoding = threading.Thread(target=encode)
    encoding.start()
    assert inside.wait(20)
    assert stepping.stepper.step([guided]) == [guided]
    encoding.join(20)
    assert stepping.failed == []
    assert stepping.memory.forwards == [40, 40, 40], "row by row still"


def test_an_edit_of_which_not_even_a_row_fits_fails_alone_and_once() -> None:
    stepping = Stepping(room=40)
    large = job(50, 50)
    assert stepping.step(large) == [100, 50]
    ((failed, error),) = stepping.failed
    assert failed is large
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    ("batch", "budget"),
    [
        ([(30,), (30,), (30,)], 45),
        ([(70, 70)], 70),
        ([(130, 130)], BUDGET),  # nothing is known of a forward of 100
    ],
)
def test_a_shortage_halves_what_was_too_much_and_never_raises_the_budget(
    batch: list[tuple[int, ...]], budget: int
) -> None:
    stepping = Stepping(room=80)
    stepping.step(*(job(*row_tokens) for row_tokens in batch))
    assert stepping.stepper.budget == budget


def test_many_edits_too_large_for_any_budget_leave_that_of_the_others() -> None:
    stepping = Stepping(room=40)
    stepping.stepper.budget = 60
    for _ in range(8):
        stepping.step(job(300))
    assert stepping.stepper.budget == 60


def test_an_edit_that_fails_of_itself_costs_nobody_what_is_kept() -> None:
    stepping = Stepping(room=BUDGET)
    whole, broken = job(10), job(10)
    stepping.memory.broken = broken
    assert stepping.step(whole, broken) == [20, 10, 10]
    assert [failed for failed, _ in stepping.failed] == [broken]
    assert stepping.memory.freed == 0
    stepping.step(job(BUDGET + 1))
    assert stepping.memory.freed == 2, "before the second try, and after it"


def test_that_two_rows_do_not_fit_together_is_found_out_once_for_all_segments_and_all_edits_as_large() -> None:
    stepping = Stepping(room=60)
    assert stepping.step(job(40, 40)) == [80, 40, 40]
    budget = stepping.stepper.budget
    assert stepping.step(job(40, 40)) == [40, 40], "the next segment is another job"
    assert stepping.step(job(42, 41)) == [42, 41]
    assert stepping.step(job(25, 25)) == [50], "a smaller one is tried"
    assert stepping.stepper.budget == budget


def test_after_many_steps_without_a_shortage_two_rows_are_tried_together_again() -> None:
    stepping = Stepping(room=60)
    stepping.step(job(40, 40))
    stepping.memory.room = 80
    guided = job(40, 40)
    for _ in range(RECOVERY_STEPS):
        assert stepping.step(guided) == [40, 40]
    assert stepping.step(guided) == [80]
