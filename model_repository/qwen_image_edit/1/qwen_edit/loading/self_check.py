"""Before anything is served: our forward of a few rows together against diffusers' own forward of each alone.

The weights that were loaded are the witness. Each way of being faster is switched on by itself, and stays on where what
comes out is diffusers' own but for rounding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.forward.block import Paths
from qwen_edit.loading.crowds import crowd
from qwen_edit.pipeline import Pipeline

log = logging.getLogger("image_edit_server")

# An error in the last bit of what goes in makes all later rounding fall otherwise: what that does to diffusers' result
# is the noise of the dtype. Ours may be off by so many times as much.
TIMES_THE_NOISE = 4.0
LEAST_BOUND = 1e-4


class Fast(NamedTuple):
    """A way of being faster."""

    name: str
    on: Callable[[], None]
    off: Callable[[], None]
    wanted: bool = False  # by name: where it cannot be switched on, the model is not served


class Checked(NamedTuple):
    """What was found of a way."""

    name: str
    off: float | None  # root mean square, of diffusers' own; None: it could not be switched on
    allowed: float
    on: bool


class SelfCheck:
    @torch.inference_mode()
    def __init__(self, pipeline: Pipeline, paths: Paths) -> None:
        self._paths = paths
        started = time.monotonic()
        self._crowd = crowd(pipeline)
        self._references = self._crowd.by_diffusers()
        self._noise = distance(self._crowd.off_by_rounding(), self._references[0])
        self._bound = max(TIMES_THE_NOISE * self._noise, LEAST_BOUND)
        self._checked: list[Checked] = []
        self._seconds = time.monotonic() - started  # without what switching on takes, such as compiling

    def run(self, ways: Sequence[Fast]) -> list[Checked]:
        """Raises what switching on a way that is wanted raises, and what running out of memory does."""
        if self._stays_on(Fast(self._crowd.what, self._together, self._apart)):
            for way in ways:
                self._stays_on(way)
        log.info(
            "Self-check: off by %s; diffusers' own rounding makes %.1e, %.1e is allowed (%.1f s)",
            ", ".join(f"{each.off:.1e} with {each.name}" for each in self._checked if each.off is not None),
            self._noise, self._bound, self._seconds,
        )  # fmt: skip
        return self._checked

    def _stays_on(self, way: Fast) -> bool:
        try:
            way.on()
            right = self._is_right(way.name)
        except Exception as error:  # compilers and kernels raise almost anything
            if way.wanted or is_out_of_memory(error):
                raise
            log.warning("%s: %s; served without", way.name, (str(error).splitlines() or [type(error).__name__])[0])
            right = False
            self._checked.append(Checked(way.name, None, self._bound, on=False))
        if not right:
            way.off()
        return right

    def _together(self) -> None:
        self._paths.together = True

    def _apart(self) -> None:
        self._paths.together = False

    @torch.inference_mode()
    def _is_right(self, name: str) -> bool:
        started = time.monotonic()
        off = max(map(distance, self._crowd.ours(), self._references))
        self._seconds += time.monotonic() - started
        right = off <= self._bound
        self._checked.append(Checked(name, off, self._bound, on=right))
        if right:
            return True
        log.warning(
            "%s: off by %.1e from diffusers' own forward, where rounding makes %.1e; served without",
            name, off, self._noise,
        )  # fmt: skip
        return False


def distance(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Root mean square of the difference over the reference's; infinite where there are no numbers."""
    off = float((ours.double() - reference.double()).norm() / reference.double().norm())
    return off if off >= 0 else float("inf")
