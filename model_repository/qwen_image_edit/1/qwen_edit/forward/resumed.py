"""What a stopped run left, as a continued call brings it back: the latents, and a velocity to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen_edit.errors import BadRequest

Array = npt.NDArray[Any]
Latents = npt.NDArray[np.float32]  # (tokens, channels)
History = Latents  # a velocity

MAX_VALUE = 10_000.0  # absolute; noise is below 10, and what a run makes of it below 1000


def left_by(
    values: Mapping[str, Array], start_step: int, *, plan: str, history_of: str
) -> tuple[Latents | None, History | None]:
    """Of the tensors without their batch dimension; raises BadRequest naming the tensor.

    A history of another step, number of steps or preset than `plan` names is not taken: the step is computed.
    """
    if start_step == 0:
        if "latents" in values:
            raise BadRequest("latents", "latents without start_step > 0: leave them out of a run's first call")
        return None, None
    if "latents" not in values:
        raise BadRequest("latents", f"missing, with start_step {start_step}: send those of the stopped run")
    latents = _unchanged("latents", values["latents"])
    if plan == "" or plan != history_of or "history" not in values:
        return latents, None
    history = _unchanged("history", values["history"])
    if history.shape != latents.shape:
        allowed = f"{list(latents.shape)}, that of the latents, is allowed"
        raise BadRequest("history", f"shape {list(history.shape)}: {allowed}")
    return latents, history


def _unchanged(name: str, values: Array) -> npt.NDArray[np.float32]:
    """A copy; raises BadRequest for what no run left."""
    if not np.isfinite(values).all():
        raise BadRequest(name, f"NaN or infinite values: send the {name} of the stopped run unchanged")
    if values.size and np.abs(values).max() > MAX_VALUE:
        raise BadRequest(name, f"values over {MAX_VALUE:g}: send the {name} of the stopped run unchanged")
    return values.astype(np.float32, copy=True)
