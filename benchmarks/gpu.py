"""Stock diffusers and every loading option on one GPU, correctness first, in one run of about nine minutes.

    OMP_NUM_THREADS=4 make bench-gpu ARGS="--out gpu.json"

Without weights: random ones of the real architecture (bf16, made on the device) take the same time. What they say about
quality is only how far an option's latents lie from those of stock diffusers with the same weights. Options that fail
are recorded with their error, and what does not fit into the time is recorded as skipped. The JSON is written after
every option. `--checkpoint tiny --device cpu` runs the same code in seconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from qwen_edit.loading import compiling
from qwen_edit.settings import Loading

from benchmarks import forwards
from benchmarks.table import print_report
from benchmarks.ways import Case, Finished, Model, Option, error_against, request

SHORT = 8  # steps of an edit that is timed several times; longer ones once

OPTIONS = (
    Option("eager", Loading(compile=False), edits="short"),
    Option("compiled", Loading(compile=True), edits="all"),
    Option("compiled, fp8", Loading(compile=True, quantization="fp8"), edits="all"),
    Option("cuDNN attention", Loading(compile=False, attention_backend="native_cudnn")),
    Option("flash attention", Loading(compile=False, attention_backend="native_flash")),
    Option("compiled, cuDNN attention", Loading(compile=True, attention_backend="native_cudnn"), edits="short"),
    Option("compiled for each size", Loading(compile=False), fixed_shapes=True),
    Option("int8", Loading(compile=False, quantization="int8")),
    Option("compiled, int8", Loading(compile=True, quantization="int8")),
    Option("nf4", Loading(compile=False, quantization="nf4", text_encoder_quantization="nf4")),
    Option("int8 text encoder", Loading(compile=False, text_encoder_quantization="int8")),
    Option("VAE in tiles", Loading(compile=False, vae_tiling=True)),
    Option("offloaded in groups", Loading(compile=False, offload="group")),
)


class Run:
    """What has been measured, and how much time is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ends: float = time.monotonic() + options.budget
        self.report: dict[str, Any] = {"command": vars(options), "versions": versions(), "options": {}}
        self.correctness = Case(min(options.sizes), 8, True)
        self.reference: Finished | None = None  # diffusers' own
        self.compile_seconds = 90.0 if options.device == "cuda" else 0.0  # until it is known better
        self.step_seconds: dict[tuple[int, bool], float] = {}  # of stock diffusers, to tell what still fits

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def attempt(self, into: dict[str, Any], name: str, work: Callable[[], Any], seconds: float = 5.0) -> Any:
        """Records `work()`'s result, or its error, or that it was skipped as it takes `seconds` and fewer are left."""
        if self.left < seconds:
            into[name] = {"skipped": f"{seconds:.0f} s needed, {max(0.0, self.left):.0f} left"}
            return None
        started = time.monotonic()
        try:
            into[name] = work()
        except Exception as error:
            into[name] = {"error": f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"}
        print(f"{time.strftime('%H:%M:%S')} {name}: {time.monotonic() - started:.1f} s", flush=True)
        return into[name]

    def save(self) -> None:
        if self.options.out:
            Path(self.options.out).write_text(json.dumps(self.report, indent=1, default=str))

    def cases(self) -> Iterable[Case]:
        """The most wanted first."""
        options = self.options
        return [
            Case(size, steps, guided)
            for size in options.sizes
            for steps, guided in sorted(
                ((steps, guided) for steps in options.steps for guided in (True, False)),
                key=lambda each: (each != (max(options.steps), True), each),
            )
        ]

    def seconds_of(self, case: Case, rounds: int) -> float:
        return self.step_seconds.get((case.size, case.guided), 0.0) * case.steps * rounds * 1.1 + 2.0 * rounds

    def rounds_of(self, case: Case) -> int:
        return 1 if case.steps > SHORT else self.options.rounds

    def seconds_to_load(self, option: Option) -> float:
        return 15 + (self.compile_seconds if option.loading.compile is True or option.fixed_shapes else 0)


def versions() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": gpu or f"{platform.machine()} CPU", "torch": torch.__version__, "cuda": torch.version.cuda,
        "diffusers": diffusers.__version__, "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def main() -> None:
    run = Run(parse_options())
    if run.options.device == "cpu":
        compiling.BACKEND = "eager"  # generating code takes minutes there, and its speed is not what is asked
    device = torch.device(run.options.device)
    run.attempt(run.report, "ceilings", lambda: forwards.ceilings(device))
    measure_stock(run)
    for option in OPTIONS:
        if not run.options.only or option.name in run.options.only:
            measure_option(run, option)
            run.save()
    print_report(run.report)
    run.save()


def parse_options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", choices=("tiny", "medium", "full-random"), default="full-random")
    parser.add_argument("--family", choices=("edit", "plus", "plus-2511"), default="plus-2511")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=numbers, default=[1024, 512], help="sides of the square outputs, in pixels")
    parser.add_argument("--steps", type=numbers, default=[2, 4, 40])
    parser.add_argument("--rounds", type=int, default=3, help="of short edits; longer ones run once")
    parser.add_argument("--repeats", type=int, default=5, help="of single forwards")
    parser.add_argument("--batch", type=int, default=8, help="edits of the smallest size that share their steps")
    parser.add_argument("--budget", type=float, default=500.0, help="seconds after which nothing more is begun")
    parser.add_argument("--only", type=lambda text: text.split(";"), help="names of options, semicolons between them")
    parser.add_argument("--out", help="where to write the JSON")
    return parser.parse_args()


def measure_stock(run: Run) -> None:
    """Times of diffusers, and the latents and pictures that every option is compared with."""
    results: dict[str, Any] = {}
    run.report["stock"] = results
    model = Model(OPTIONS[0], run.options)
    run.reference = model.stock(run.correctness)
    for size in run.options.sizes:
        forwards_of = partial(model.forwards, size, run.options.repeats, stock=True)
        measured = run.attempt(results, f"forward {size}²", forwards_of)
        seconds = measured.get("1 row", {}).get("median", 0.0) if measured else 0.0
        run.step_seconds.update({(size, False): seconds, (size, True): 2 * seconds})
    for case in run.cases():
        time_edits(run, results, case, model.stock)
    release(model)


def measure_option(run: Run, option: Option) -> None:
    results: dict[str, Any] = {}
    run.report["options"][option.name] = results
    reset_peak(run.options.device)
    if run.left < (needed := run.seconds_to_load(option)):
        results["error"] = f"skipped: {needed:.0f} s needed to load it, {run.left:.0f} left"
        return
    started = time.monotonic()
    try:
        model = Model(option, run.options)
    except Exception as error:
        results["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        release(None)
        return
    results["load_seconds"] = time.monotonic() - started
    if option.loading.compile is True:
        run.compile_seconds = results["load_seconds"]
    run.attempt(results, "against stock", lambda: error_against(model.edit(run.correctness), run.reference), seconds=10)
    for size in run.options.sizes:
        run.attempt(results, f"forward {size}²", partial(model.forwards, size, run.options.repeats))
    if option.edits != "none":
        for case in run.cases():
            if option.edits == "short" and case.steps > SHORT:
                continue
            time_edits(run, results, case, model.edit)
        run.attempt(results, "batch", lambda: batched(run, model), seconds=20)
        run.attempt(results, "host waits in a step", lambda: model.host_waits(min(run.options.sizes)))
        run.attempt(results, "profile", lambda: model.profile(max(run.options.sizes)))
    results["peak_bytes"] = torch.cuda.max_memory_allocated() if run.options.device != "cpu" else None
    release(model)


def time_edits(run: Run, results: dict[str, Any], case: Case, edit: Callable[[Case], Finished]) -> None:
    rounds = run.rounds_of(case)

    def work() -> dict[str, Any]:
        done = [edit(case) for _ in range(rounds)]
        stages = [each.timings for each in done if each.timings]
        medians = {stage: statistics.median(each[stage] for each in stages) for stage in ("encode", "denoise", "decode")
                   if stages}  # fmt: skip
        return {**forwards.spread_of([each.seconds for each in done]), "rounds": rounds, **medians}

    run.attempt(results, str(case), work, seconds=run.seconds_of(case, rounds))


def batched(run: Run, model: Model) -> dict[str, Any]:
    """Edits one by one against the same edits sent at once."""
    case = Case(min(run.options.sizes), 4, False)
    requests = [request(case, seed) for seed in range(run.options.batch)]
    alone = sum(model.edits([each])[0].seconds for each in requests)
    together = model.edits(requests)[0].seconds
    return {"edits": len(requests), "one_by_one": alone, "together": together, "ratio": alone / together}


def release(model: Model | None) -> None:
    """The next option's weights want the memory; compiled code keeps the old ones alive."""
    if model is not None:
        del model.pipeline
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
