"""A segment continued in another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.kit.servers import environment

SEGMENT = """
import sys
import numpy as np
import numpy.typing as npt
from tests.kit.engines import edit, engine_on, load_pipeline

checkpoint, picture, start, stop, before, after = sys.argv[1:]
latents = np.load(before) if int(start) else None
with engine_on(load_pipeline(checkpoint)) as engine:
    request = edit(
        open(picture, "rb").read(), num_inference_steps=7, true_cfg_scale=3.0, seed=11, start_step=int(start),
        stop_step=int(stop), latents=latents,
    )
    engine.submit(request).wait()
    np.save(after, engine.final_latents[request.id])
"""


def test_each_part_in_a_fresh_process_equals_the_run_in_one_piece_to_the_last_bit(
    sensitive: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = run_segment(sensitive("plus-2511"), 0, 7, tmp_path / "none.npy", tmp_path / "whole.npy")
    run_segment(sensitive("plus-2511"), 0, 3, tmp_path / "none.npy", tmp_path / "first.npy")
    rest = run_segment(sensitive("plus-2511"), 3, 7, tmp_path / "first.npy", tmp_path / "rest.npy")
    assert np.array_equal(whole, rest)


def run_segment(checkpoint: Path, start: int, stop: int, before: Path, after: Path) -> npt.NDArray[np.float32]:
    """The latents after the steps, run in a process of its own."""
    tests = Path(__file__).parents[1]
    paths = (tests.parent, tests.parent / "model_repository" / "qwen_image_edit" / "1")
    env = environment(OMP_NUM_THREADS="1") | {"PYTHONPATH": ":".join(map(str, paths))}
    picture = tests / "data" / "cat.jpg"
    arguments = [str(value) for value in (checkpoint, picture, start, stop, before, after)]
    done = subprocess.run(
        [sys.executable, "-c", SEGMENT, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return np.asarray(np.load(after))
