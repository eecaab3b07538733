"""Which errors are the device's own: after one of them every later call fails too, until the process ends.

CUDA, cuDNN, HIP and Triton's compiler put the same words behind names of their own, in errors of several classes.
"""

from __future__ import annotations

import logging
import re

import torch

from qwen_edit.errors import EditError, Failed

log = logging.getLogger("image_edit_server")

SOURCES = r"CUDA error|CUDA driver error|cuDNN error|HIP error|Triton Error \[(CUDA|HIP)\]"
STICKY = (
    r"illegal (memory access|instruction|address)|misaligned address|invalid program counter"
    r"|global/shared address space|launch failure|launch timed out|device-side assert|EXECUTION_FAILED"
    r"|ECC error|nvlink|hardware (stack )?error|\bxid\b|unknown error|context is destroyed"
)
DEVICE_ERROR = re.compile(rf"({SOURCES}): .*({STICKY})", re.IGNORECASE)
OUT_OF_MEMORY = re.compile(rf"({SOURCES}): .*(out of memory|ALLOC(ATION)?_FAILED)", re.IGNORECASE)
# PyTorch's last word on a convolution that no engine of cuDNN could do, be it that none got memory to work in.
NO_ENGINE = re.compile("unable to find an engine to execute this computation")


class DeviceError(Exception):
    """The device fails whatever it is given, though no error of its own says so."""


def is_device_error(error: Exception) -> bool:
    return isinstance(error, DeviceError) or _says(DEVICE_ERROR, error)


def is_out_of_memory(error: Exception) -> bool:
    """Also of what libraries beside PyTorch allocate, whose errors have no class of their own."""
    return isinstance(error, torch.OutOfMemoryError) or _says(OUT_OF_MEMORY, error) or _says(NO_ENGINE, error)


def may_be_the_devices(error: Exception) -> bool:
    """Whether the device is to blame where one edit after the other fails so."""
    return not (isinstance(error, EditError) or is_out_of_memory(error)) or _says(NO_ENGINE, error)


def failure(error: Exception, edit_id: str) -> EditError:
    """What the client of an edit that failed alone reads; the details are in the log."""
    if isinstance(error, EditError):
        return error
    log.error("edit %s failed", edit_id, exc_info=error)
    if is_out_of_memory(error):
        return Failed("out of memory: ask for a smaller size or fewer reference images")
    return Failed("the model failed on this edit")


def _says(words: re.Pattern[str], error: Exception) -> bool:
    return isinstance(error, RuntimeError) and words.search(str(error)) is not None
