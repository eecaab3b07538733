"""Which errors are the device's own: after one of them every later call fails too, until the process ends."""

from __future__ import annotations

import torch

# Memory that ran out, and kernels that could not be launched: the edit's fault, and the next call works again.
PASSING = ("out of memory", "ALLOC_FAILED", "invalid argument", "invalid configuration argument")


class DeviceError(Exception):
    """The device fails whatever it is given, though no error of its own says so."""


def is_device_error(error: Exception) -> bool:
    text = str(error)
    of_cuda = isinstance(error, RuntimeError) and (isinstance(error, torch.AcceleratorError) or "CUDA error" in text)
    return isinstance(error, DeviceError) or (of_cuda and not any(words in text for words in PASSING))
