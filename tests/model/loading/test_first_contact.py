"""What a GPU's first load needs of the environment, and says of its attention."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from qwen_edit.loading import kernels
from qwen_edit.loading.environment import prepare
from qwen_edit.pipeline import Pipeline

from tests.kit.engines import load_pipeline


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": ""}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
    ids=str,
)
def test_memory_grows_in_place_unless_the_allocator_is_set(environ: dict[str, str], expected: dict[str, str]) -> None:
    prepare(environ, torch_threads=3)
    assert environ == expected | {"OMP_NUM_THREADS": "3", "DIFFUSERS_VERBOSITY": "error"}


def test_the_kernel_that_attention_gets_is_known_by_name(sensitive: Callable[[str], Path]) -> None:
    assert kernels.attention_kernel(Pipeline(load_pipeline(sensitive("plus")))) == "flash_attention_for_cpu"


@pytest.mark.parametrize(
    ("kernel", "backend", "capability", "warned"),
    [
        ("flash_attention", "native", (9, 0), True), ("cudnn_attention", "native", (9, 0), False),
        ("flash_attention", "native_flash", (9, 0), False), ("flash_attention", "native", (8, 9), False),
    ],
)  # fmt: skip
def test_a_hopper_gpu_without_cudnns_attention_is_warned_of(
    caplog: pytest.LogCaptureFixture, kernel: str, backend: str, capability: tuple[int, int], warned: bool
) -> None:
    with caplog.at_level(logging.INFO, "image_edit_server"):
        kernels.report(kernel, backend, 91400, capability)
    assert caplog.messages[0] == f"Attention: ATTENTION_BACKEND={backend}, kernel {kernel}, cuDNN 91400"
    assert any(record.levelno == logging.WARNING for record in caplog.records) is warned
