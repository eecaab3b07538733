"""The benchmark for GPUs runs from end to end, tiny and on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qwen_edit.loading import compiling

from benchmarks import gpu

ONLY = "eager;compiled, fp8;flash attention"


def test_it_measures_every_option_that_runs_and_records_the_errors_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", compiling.BACKEND)  # the benchmark sets another on the CPU
    out = tmp_path / "gpu.json"
    options = "--checkpoint tiny --device cpu --sizes 64 --steps 2,3 --rounds 1 --repeats 1 --batch 2"
    monkeypatch.setattr("sys.argv", ["gpu", *options.split(), "--only", ONLY, "--out", str(out)])
    gpu.main()
    report = json.loads(out.read_text())
    stock, options_measured = report["stock"], report["options"]
    assert stock["64², 3 steps, guidance"]["median"] > 0
    for name in ("eager", "flash attention"):
        assert options_measured[name]["against stock"]["latents"] <= 1e-4
        assert options_measured[name]["forward 64²"]["1 row"]["tflops"] > 0
    assert options_measured["eager"]["64², 2 steps"]["denoise"] > 0
    assert options_measured["eager"]["batch"]["edits"] == 2
    assert options_measured["compiled, fp8"]["error"].startswith("LoadError: QUANTIZATION=fp8: a CUDA GPU")
    shown = capsys.readouterr().out
    assert "| eager |" in shown
    assert "aten::addmm" in shown, "the profile"


def test_what_does_not_fit_into_the_time_is_skipped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--budget", "3", "--device", "cpu", "--checkpoint", "tiny"])
    run = gpu.Run(gpu.parse_options())
    results: dict[str, object] = {}
    assert run.attempt(results, "quick", lambda: 7, seconds=1) == 7
    run.attempt(results, "slow", lambda: pytest.fail("began"), seconds=60)
    assert "60 s needed" in str(results["slow"])


def test_every_option_has_a_name_of_its_own() -> None:
    assert len({option.name for option in gpu.OPTIONS}) == len(gpu.OPTIONS)
