"""Stock diffusers and every loading option on one GPU, correctness first, in one run that ends within 560 seconds.

    OMP_NUM_THREADS=4 make bench-gpu ARGS="--out gpu.json"

Without weights: random ones of the real architecture (bf16, made on the device, once) take the same time. What they say
about quality is only how far an option's latents lie from those of stock diffusers with the same weights. Options that
fail are recorded with their error, and what does not fit into the time as skipped. The JSON is written after every
measurement; what hangs is ended, with the stacks of all threads. `--checkpoint tiny --device cpu` runs the same plan in
seconds.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import diffusers
import torch
from qwen_edit.loading import compiling
from qwen_edit.loading.kernels import cudnn_version
from qwen_edit.settings import Loading
from torch._dynamo.utils import counters

from benchmarks import ceilings, forwards
from benchmarks.table import print_report
from benchmarks.ways import EAGER, Case, Finished, Model, Option, error_against, request

SHORT = 8  # steps of an edit that is timed several times; longer ones once
SECONDS_TO_BUILD = 15.0
STDERR = 2  # the descriptor: tests put something else in the place of the file

# In the order in which one can be made of the one before: weights are quantised last, as nothing brings them back.
OPTIONS = (
    Option("eager", EAGER, edits="short"),
    Option("cuDNN attention", Loading(compile=False, attention_backend="native_cudnn")),
    Option("flash attention", Loading(compile=False, attention_backend="native_flash")),
    Option("compiled", Loading(compile=True), edits="all"),
    Option("compiled, cuDNN attention", Loading(compile=True, attention_backend="native_cudnn")),
    Option("VAE in tiles", Loading(compile=True, vae_tiling=True)),
    Option("compiled, fp8", Loading(compile=True, quantization="fp8"), edits="all"),
    Option("compiled, int8", Loading(compile=True, quantization="int8"), anew=True),
    Option("int8", Loading(compile=False, quantization="int8"), anew=True),
    Option("nf4", Loading(compile=False, quantization="nf4", text_encoder_quantization="nf4"), anew=True),
    Option("int8 text encoder", Loading(compile=False, text_encoder_quantization="int8"), anew=True),
    Option("offloaded in groups", Loading(compile=False, offload="group"), anew=True),
)


def age() -> float:
    """Seconds since this process was started, its imports included."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class Run:
    """What has been measured, and how much time is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ends: float = time.monotonic() + options.budget - age()
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
        self.save()
        return into[name]

    def save(self) -> None:
        if self.options.out:
            whole = Path(f"{self.options.out}.part")
            whole.write_text(json.dumps(self.report, indent=1, default=str))
            whole.replace(self.options.out)  # so that the last one is whole, whatever ends the run

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

    def seconds_to_have(self, option: Option) -> float:
        built = SECONDS_TO_BUILD if option.anew else 0.0
        return built + (self.compile_seconds if option.loading.compile is True else 0.0)

    def wants(self, option: Option) -> bool:
        return not self.options.only or option.name in self.options.only


def versions() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": gpu or f"{platform.machine()} CPU", "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": cudnn_version(), "diffusers": diffusers.__version__, "python": platform.python_version(),
        "threads": torch.get_num_threads(), "libraries": libraries(),
    }  # fmt: skip


def libraries() -> dict[str, str]:
    """CUDA's own, cuBLAS among them, as the wheels that PyTorch came with name them."""
    found = [(each.name, each.version) for each in metadata.distributions()]
    return {name: version for name, version in sorted(found) if name.startswith("nvidia-")}


def main() -> None:
    run = Run(parse_options())
    if run.options.device == "cpu":
        compiling.BACKEND = "eager"  # generating code takes minutes there, and its speed is not what is asked
    faulthandler.dump_traceback_later(max(1.0, run.options.hard_limit - age()), exit=True, file=STDERR)
    device = torch.device(run.options.device)
    run.attempt(run.report, "ceilings", lambda: ceilings.measure(device, run.options.sustained), seconds=30)
    measure_with_the_same_weights(run)
    for option in OPTIONS:
        if option.anew and run.wants(option):
            measure_option(run, option)
    print_report(run.report)
    run.save()
    faulthandler.cancel_dump_traceback_later()


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
    parser.add_argument("--hard-limit", type=float, default=560.0, help="seconds after which the process is ended")
    parser.add_argument("--sustained", type=float, default=1.0, help="seconds of each ceiling")
    parser.add_argument("--only", type=lambda text: text.split(";"), help="names of options, semicolons between them")
    parser.add_argument("--out", help="where to write the JSON")
    return parser.parse_args()


def measure_with_the_same_weights(run: Run) -> None:
    model = Model(run.options)
    run.report["self-check"] = [each._asdict() for each in model.checked]
    measure_stock(run, model)
    run.attempt(run.report, "stages", lambda: model.stages(run.options.repeats), seconds=15)
    run.attempt(run.report, "rounding", model.rounding, seconds=10)
    for option in OPTIONS:
        if not option.anew and run.wants(option):
            measure_option(run, option, model)
    release(model)


def measure_stock(run: Run, model: Model) -> None:
    """Times of diffusers, and the latents and pictures that every option is compared with."""
    results: dict[str, Any] = {}
    run.report["stock"] = results
    run.reference = model.stock(run.correctness)
    for size in run.options.sizes:
        forwards_of = partial(model.forwards, size, run.options.repeats, stock=True)
        measured = run.attempt(results, f"forward {size}²", forwards_of)
        seconds = measured.get("1 row", {}).get("median", 0.0) if measured else 0.0
        run.step_seconds.update({(size, False): seconds, (size, True): 2 * seconds})
    run.attempt(results, "profile", lambda: model.profile(max(run.options.sizes), stock=True))
    for case in run.cases():
        time_edits(run, results, case, model.stock)
    # Which of the two torch chooses is a matter of its version: then stock is twice as fast, or not.
    flash: dict[str, Any] = {}
    run.report["stock, flash attention"] = flash
    model.use(Loading(compile=False, attention_backend="native_flash"))
    for size in run.options.sizes:
        run.attempt(flash, f"forward {size}²", partial(model.forwards, size, run.options.repeats, stock=True))
    model.use(EAGER)


def measure_option(run: Run, option: Option, shared: Model | None = None) -> None:
    """By `shared`, changed to it, or by a model of its own."""
    results: dict[str, Any] = {}
    run.report["options"][option.name] = results
    reset_peak(run.options.device)
    if run.left < (needed := run.seconds_to_have(option)):
        results["error"] = f"skipped: {needed:.0f} s needed to load it, {run.left:.0f} left"
        return
    started = time.monotonic()
    try:
        model = shared or Model(run.options, option.loading)
        compiling_took = model.use(option.loading) if shared else 0.0
    except Exception as error:
        results["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        run.save()
        if not shared:
            release(None)
        return
    results["load_seconds"] = time.monotonic() - started
    run.compile_seconds = max(compiling_took, run.compile_seconds) if compiling_took > 1 else run.compile_seconds
    measure(run, option, model, results)
    if not shared:
        release(model)


def measure(run: Run, option: Option, model: Model, results: dict[str, Any]) -> None:
    graphs = counters["stats"]["unique_graphs"]
    run.attempt(results, "against stock", lambda: error_against(model.edit(run.correctness), run.reference), seconds=10)
    for size in run.options.sizes:
        run.attempt(results, f"forward {size}²", partial(model.forwards, size, run.options.repeats))
    if option.edits != "none":
        for case in run.cases():
            if option.edits == "short" and case.steps > SHORT:
                continue
            time_edits(run, results, case, model.edit)
        smallest, largest = min(run.options.sizes), max(run.options.sizes)
        run.attempt(results, "batch", lambda: batched(run, model), seconds=20)
        run.attempt(results, "host waits in a step", lambda: model.host_waits(smallest))
        run.attempt(results, "texts of new lengths", lambda: model.new_lengths(largest))
        run.attempt(results, "profile", lambda: model.profile(largest))
    # Of all sizes, rows and kernels of attention above.
    results["graphs compiled in service"] = counters["stats"]["unique_graphs"] - graphs
    results["peak_bytes"] = torch.cuda.max_memory_allocated() if run.options.device != "cpu" else None
    if option.edits != "none":
        run.attempt(results, "short of memory", lambda: model.short_of_memory(min(run.options.sizes)), seconds=20)
    run.save()


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
        del model.pipeline, model.parts
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
