"""What the engine does when its device breaks, or seems to; and how it makes do with the memory there is."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.beside.answers import FAILURES_IN_A_ROW
from qwen_edit.clock import StepClock
from qwen_edit.device_errors import DeviceError, is_device_error, is_out_of_memory
from qwen_edit.errors import Failed

from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
]
# Of a convolution without memory to work in, or of a cuDNN that can do none.
NO_ENGINE = [RuntimeError(f"{way} was unable to find an engine to execute this computation") for way in ("GET", "FIND")]
WORK = [("text_encoder.model", "forward"), ("vae", "encode"), ("transformer", "forward"), ("vae", "decode")]


@pytest.fixture(scope="module")
def pipeline(checkpoint: Callable[[str], Path]) -> Any:
    return load_pipeline(checkpoint("plus-2511"))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline) as running:
        yield running


@pytest.fixture
def cat(photo: Callable[[str], bytes]) -> bytes:
    return photo("cat")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError(ILLEGAL), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError(ILLEGAL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(…)`"), True),
        (DeviceError("5 edits in a row failed"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA driver error: unspecified launch failure"), True),
        (RuntimeError("HIP error: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("CUDA error: misaligned address"), True),
        (torch.AcceleratorError("CUDA error: the launch timed out and was terminated"), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: uncorrectable NVLink error detected during the execution"), True),
        (torch.AcceleratorError("CUDA error: invalid argument\nCompile to enable device-side assertions."), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul(…)`"), False),
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"), False),
        (torch.AcceleratorError("CUDA error: too many resources requested for launch"), False),
        *[(error, False) for error in [*SHORTAGES, *NO_ENGINE]],
        (torch.AcceleratorError("CUDA error: invalid configuration argument"), False),
        (torch.AcceleratorError("CUDA error: invalid argument"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("CUDA error: in a caller's words"), False),
    ],
    ids=str,
)
def test_a_device_error_is_told_from_an_edits_own(error: Exception, expected: bool) -> None:
    assert is_device_error(error) is expected


def test_a_shortage_of_memory_is_told_from_other_errors() -> None:
    assert all(map(is_out_of_memory, [*SHORTAGES, *NO_ENGINE]))
    others = [
        torch.AcceleratorError(ILLEGAL), ValueError("CUDA error: out of memory"), RuntimeError("out of words"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED"), ValueError(str(NO_ENGINE[0])),
    ]  # fmt: skip
    assert not any(map(is_out_of_memory, others))


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(("part", "method"), WORK)
def test_a_device_error_ends_the_process_with_its_edits_unanswered(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str, method: str
) -> None:
    monkeypatch.setattr(attrgetter(part)(pipeline), method, raising(torch.AcceleratorError(ILLEGAL)))
    with engine_on(pipeline) as engine:
        answer = engine.submit(edit(cat))
        assert engine.process_ended.wait(20)
    assert not answer.answered_at
    assert engine.watch.edits == {}
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert line == (
        "the device failed, this worker ends, its edits (1) unanswered: "
        "CUDA error: an illegal memory access was encountered"
    )


def test_a_device_error_that_the_clock_meets_ends_the_process_too(
    engine: TestEngine, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepClock, "settle", raising(torch.AcceleratorError(ILLEGAL)))
    answer = engine.submit(edit(cat))
    assert engine.process_ended.wait(20)
    assert not answer.answered_at


def test_a_device_error_of_one_edit_tried_alone_ends_the_process_too(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([ValueError("of the whole batch"), torch.AcceleratorError(ILLEGAL)])
    monkeypatch.setattr(pipeline.transformer, "forward", lambda **inputs: raising(next(errors))())
    with engine_on(pipeline) as engine:
        answer = engine.submit(edit(cat))
        assert engine.process_ended.wait(20)
    assert not answer.answered_at


def test_a_device_error_of_a_batch_is_not_tried_again(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([torch.AcceleratorError(ILLEGAL)])
    monkeypatch.setattr(pipeline.transformer, "forward", lambda **inputs: raising(next(errors))())
    with engine_on(pipeline) as engine:
        answer = engine.submit(edit(cat))
        assert engine.process_ended.wait(20)
    assert not answer.answered_at
    assert next(errors, None) is None


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("of no known kind"), "the model failed on this edit"), (NO_ENGINE[0], "out of memory")],
    ids=str,
)
def test_edits_that_fail_one_after_the_other_without_a_step_end_the_process(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setattr(pipeline.transformer, "forward", raising(error))
    with engine_on(pipeline) as engine:
        for _ in range(FAILURES_IN_A_ROW - 1):
            with pytest.raises(Failed, match=told):
                engine.submit(edit(cat)).wait()
        assert not engine.process_ended.is_set()
        last = engine.submit(edit(cat))
        assert engine.process_ended.wait(20)
    assert not last.answered_at


def test_one_good_step_clears_the_failures_before_it(pipeline: Any, cat: bytes) -> None:
    with engine_on(pipeline) as engine:
        for _ in range(2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline.transformer, "forward", raising(ValueError("of no known kind")))
                for _ in range(FAILURES_IN_A_ROW - 1):
                    with pytest.raises(Failed):
                        engine.submit(edit(cat)).wait()
            engine.submit(edit(cat)).wait()
        assert not engine.process_ended.is_set()


@pytest.mark.parametrize("shortage", SHORTAGES, ids=str)
def test_edits_too_large_for_the_memory_never_end_the_process(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch, shortage: Exception
) -> None:
    monkeypatch.setattr(pipeline.transformer, "forward", raising(shortage))
    with engine_on(pipeline) as engine:
        for _ in range(FAILURES_IN_A_ROW + 1):
            with pytest.raises(Failed, match="out of memory"):
                engine.submit(edit(cat)).wait()
        assert not engine.process_ended.is_set()


class Shortage:
    """A method of which the first call runs out of memory while it holds a tensor; later ones see what became of it."""

    def __init__(self, method: Callable[..., Any], error: Exception, times: int = 1) -> None:
        self._method = method
        self._error = error
        self._times = times
        self._witnesses: list[weakref.ref[torch.Tensor]] = []
        self.alive: list[bool] = []  # of every later call and every freeing: whether a failed call's tensor was left

    def look(self) -> None:
        self.alive.append(any(witness() is not None for witness in self._witnesses))

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._witnesses:
            self.look()
        if len(self._witnesses) < self._times:
            activation = torch.empty(1000)
            self._witnesses.append(weakref.ref(activation))
            raise type(self._error)(*self._error.args)
        return self._method(*args, **options)


@pytest.fixture
def unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest keeps what is logged, with the errors."""
    monkeypatch.setattr(logging.getLogger("image_edit_server"), "disabled", True)


@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize(
    ("part", "method", "guidance"), [*((*work, 1.0) for work in WORK), ("transformer", "forward", 4.0)]
)
@pytest.mark.parametrize("error", [*SHORTAGES[:2], NO_ENGINE[0]], ids=str)
def test_nothing_of_what_ran_out_of_memory_is_alive_when_memory_is_freed_and_it_is_tried_again(
    pipeline: Any,
    cat: bytes,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    method: str,
    guidance: float,
    error: Exception,
) -> None:
    failing = attrgetter(part)(pipeline)
    shortage = Shortage(getattr(failing, method), error)
    monkeypatch.setattr(failing, method, shortage)
    with engine_on(pipeline) as engine:
        engine.worker.before_freeing = shortage.look
        assert engine.submit(edit(cat, true_cfg_scale=guidance)).wait().image is not None
    assert len(shortage.alive) >= 2
    assert not any(shortage.alive)


@pytest.mark.usefixtures("unlogged")
def test_nothing_of_an_edit_too_large_for_the_memory_is_alive_when_memory_is_freed(
    pipeline: Any, cat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortage = Shortage(pipeline.transformer.forward, SHORTAGES[0], times=2)
    monkeypatch.setattr(pipeline.transformer, "forward", shortage)
    with engine_on(pipeline) as engine:
        engine.worker.before_freeing = shortage.look
        with pytest.raises(Failed, match="out of memory"):
            engine.submit(edit(cat)).wait()
    assert shortage.alive == [False] * 3, "freed, tried again, freed"
