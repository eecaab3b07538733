"""A segment continued in another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from qwen_edit.request import EditRequest

from tests.kit.engines import edit, engine_on, load_pipeline
from tests.kit.servers import environment

REST = """
import sys
import numpy as np
from tests.kit.engines import engine_on, load_pipeline
from tests.model.test_fresh_process import part

checkpoint, picture, before, after = sys.argv[1:]
with engine_on(load_pipeline(checkpoint)) as engine:
    request = part(open(picture, "rb").read(), start_step=3, latents=np.load(before))
    engine.submit(request).wait()
    np.save(after, engine.final_latents[request.id])
"""


def part(picture: bytes, **of_the_segment: Any) -> EditRequest:
    return edit(picture, num_inference_steps=7, true_cfg_scale=3.0, seed=11, **of_the_segment)


def test_a_segment_continued_in_a_fresh_process_equals_the_run_in_one_piece_to_the_last_bit(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], tmp_path: Path
) -> None:
    before, after = tmp_path / "before.npy", tmp_path / "after.npy"
    pipeline = load_pipeline(sensitive("plus-2511"))
    with engine_on(pipeline) as engine:
        whole = engine.latents(part(photo("cat")))
    with engine_on(pipeline) as engine:
        stopped = engine.submit(part(photo("cat"), stop_step=3)).wait()
    assert stopped.latents is not None
    np.save(before, stopped.latents)
    run_rest(sensitive("plus-2511"), before, after)
    assert np.array_equal(np.load(after), whole)


def run_rest(checkpoint: Path, before: Path, after: Path) -> None:
    """Writes the latents after the last step, made in a process of its own."""
    tests = Path(__file__).parents[1]
    paths = (tests.parent, tests.parent / "model_repository" / "qwen_image_edit" / "1")
    env = environment(OMP_NUM_THREADS="1") | {"PYTHONPATH": ":".join(map(str, paths))}
    arguments = [str(path) for path in (checkpoint, tests / "data" / "cat.jpg", before, after)]
    done = subprocess.run(
        [sys.executable, "-c", REST, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
