"""Whether a checkpoint, on this machine and with these settings, draws what diffusers draws with the same weights.

    make verify CHECKPOINT=/models/Qwen-Image-Edit-2511

Settings are read from the environment as the server reads them (QUANTIZATION, COMPILE, ATTENTION_BACKEND, OFFLOAD, …),
and the model is loaded as the server loads it. Then edits are made by the engine, and by diffusers' pipeline with the
weights as they were loaded. The measure is what rounding does to diffusers' own result, when the last bit of what goes
into each of its forwards is wrong: ours may be off by four times as much.

Prints a report in Markdown and writes it, with a sheet of the pictures, into the folder `--out`. The status is 1 where
anything is off, and 2 where the checkpoint cannot be loaded. With 20 G parameters on one GPU it takes a few minutes,
most of them to load.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from PIL import Image, ImageOps
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.kernels import cudnn_version
from qwen_edit.loading.load import Loaded, load
from qwen_edit.loading.self_check import LEAST_BOUND, TIMES_THE_NOISE, distance
from qwen_edit.settings import Settings
from qwen_edit.settings_grammar import SettingsError

from benchmarks import subjects
from benchmarks.subjects import Case, Made, Subject, mirrored

SHOWN = 256  # pixels a side of a picture on the sheet
ENLARGED = 8  # times that differences are shown
FAR = 24  # pixels from a mask's edge, where nothing of its seam is left


class Check(NamedTuple):
    what: str
    off: float | None  # None: it could not be tried
    allowed: float

    @property
    def right(self) -> bool:
        return self.off is not None and self.off <= self.allowed


def main() -> int:
    options = parse_options()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = Settings.from_environment({**os.environ, "QWEN_MODEL_DIR": options.checkpoint})
        loaded = load(find(settings.model_dir), settings, torch.device(options.device))
    except (LoadError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    checks = [Check(each.name, each.off, each.allowed) for each in loaded.checked]
    with Subject(loaded, options.steps) as subject:
        pictures, stages = compared(subject, checks)
    if (vae := subjects.vae_off(loaded, Path(settings.model_dir))) is not None:
        checks += [Check(name, off, allowed_of(noise)) for name, off, noise in vae]
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    sheet(pictures).save(folder / "pictures.png")
    text = report(loaded, settings, checks, stages)
    (folder / "report.md").write_text(text)
    print(text)
    return 0 if all(check.right for check in checks) else 1


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="its folder, or a Hub id that is in the cache")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=6, help="of each edit; at least 4")
    parser.add_argument("--out", default="verify", help="folder for report.md and pictures.png")
    return parser.parse_args()


def compared(subject: Subject, checks: list[Check]) -> tuple[list[tuple[Image.Image, ...]], list[str]]:
    """Rows of the sheet, and rows of the table of stages; what was found is added to `checks`."""
    cases = subject.cases()
    rows, stages, bounds, references = [], [], [], []
    for case in cases:
        reference, its_seconds = subject.by_diffusers(case)
        noise = distance(subject.by_diffusers(case, nudged=True)[0], reference)
        (made,) = subject.ours([case])
        (again,) = subject.ours([mirrored(case)])
        bounds.append(allowed_of(noise))
        references.append(reference)
        checks.append(Check(f"latents of {case.name}", distance(made.latents, reference), bounds[-1]))
        stages.append(stage(case, again, its_seconds))
        rows.append(shown(subject, case, made, reference))
    together = subject.ours(cases)
    off = max(distance(made.latents, alone) for made, alone in zip(together, references, strict=True))
    checks.append(Check("latents of all of these in shared forwards", off, max(bounds)))
    (whole,) = subject.ours(cases[:1])
    checks.append(
        Check("latents of the first in two segments", distance(subject.in_segments(cases[0]), whole.latents), bounds[0])
    )
    if (masked := subject.masked()) is not None:
        (made,) = subject.ours([masked])
        checks.append(Check("grey levels outside a mask", subjects.changed_outside(masked, made, FAR), 0.0))
    return rows, stages


def allowed_of(noise: float) -> float:
    return max(TIMES_THE_NOISE * noise, LEAST_BOUND)


def stage(case: Case, made: Made, by_diffusers: float) -> str:
    timings = made.timings
    step = timings["denoise"] / case.request.num_inference_steps
    return (
        f"| {case.name} | {timings['encode']:.3f} | {step:.4f} | {timings['decode']:.3f} | {made.seconds:.2f} | "
        f"{by_diffusers:.2f} |"
    )


def shown(subject: Subject, case: Case, made: Made, reference: torch.Tensor) -> tuple[Image.Image, ...]:
    """Source, ours, diffusers', and their difference enlarged."""
    theirs = subject.picture(case, reference)
    ours = subject.picture(case, made.latents)
    difference = Image.eval(subjects.apart(ours, theirs), lambda level: min(255, ENLARGED * level))
    return subjects.opened(case.request.images[0]), ours, theirs, difference


def sheet(rows: Sequence[tuple[Image.Image, ...]]) -> Image.Image:
    small = [[ImageOps.contain(picture.convert("RGB"), (SHOWN, SHOWN)) for picture in row] for row in rows]
    whole = Image.new("RGB", (SHOWN * max(map(len, small)), SHOWN * len(small)), "white")
    for y, row in enumerate(small):
        for x, picture in enumerate(row):
            whole.paste(picture, (x * SHOWN, y * SHOWN))
    return whole


def report(loaded: Loaded, settings: Settings, checks: Sequence[Check], stages: Sequence[str]) -> str:
    verdict = "All of it is right." if all(check.right for check in checks) else "**Something is off.**"
    gpu = loaded.pipeline.devices.transformer
    on_gpu = gpu.type == "cuda"
    machine = f"{torch.cuda.get_device_name(gpu)}, cuDNN {cudnn_version()}" if on_gpu else "CPU"
    memory = f"\n\nMost memory at once: {torch.cuda.max_memory_allocated(gpu) / 1e9:.1f} GB." if on_gpu else ""
    table = [
        f"| {each.what} | {figure(each)} | {each.allowed:.1e} | {'yes' if each.right else '**no**'} |"
        for each in checks
    ]
    return (
        "\n".join(
            [
                f"# {loaded.sizes.family.pipeline} on {machine}",
                "",
                f"{verdict} torch {torch.__version__}, diffusers {diffusers.__version__}, "
                f"{str(loaded.pipeline.dtype).removeprefix('torch.')}, {settings.loading}",
                "",
                "| against diffusers on the same weights | off by | allowed | right |",
                "|---|---|---|---|",
                *table,
                "",
                "Seconds of each edit when one like it was made before, and diffusers' for its latents alone:",
                "",
                "| edit | encoding | a step | decoding | all | diffusers |",
                "|---|---|---|---|---|---|",
                *stages,
            ]
        )
        + memory
        + "\n\nOn the sheet, a row for each edit: source, ours, diffusers', eight times their difference.\n"
    )


def figure(check: Check) -> str:
    return "failed: see the log" if check.off is None else f"{check.off:.1e}"


if __name__ == "__main__":
    sys.exit(main())
