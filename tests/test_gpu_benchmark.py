"""The benchmark for GPUs runs from end to end, tiny and on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qwen_edit.loading import compiling

from benchmarks import ceilings, gpu

ONLY = "flash attention;compiled;compiled, fp8;int8 text encoder"


def test_the_whole_plan_runs_dry_and_records_the_errors_of_what_this_machine_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", compiling.BACKEND)  # the benchmark sets another on the CPU
    monkeypatch.setattr(gpu, "age", lambda: 0.0)  # of the benchmark, not of all tests before
    monkeypatch.setattr(ceilings, "TOKENS", {"cpu": 8})
    out = tmp_path / "gpu.json"
    options = "--checkpoint tiny --device cpu --sizes 64 --steps 2 --rounds 1 --repeats 1 --batch 2 --sustained 0"
    monkeypatch.setattr("sys.argv", ["gpu", *options.split(), "--only", ONLY, "--out", str(out)])
    gpu.main()
    report = json.loads(out.read_text())
    stock, measured = report["stock"], report["options"]
    assert measured.keys() == set(ONLY.split(";"))
    assert stock["64², 2 steps, guidance"]["median"] > 0
    assert report["ceilings"]["qkv, float32"] > 0
    assert "No viable backend" in report["ceilings"]["attention, cudnn"]
    assert all(each["on"] for each in report["self-check"])
    assert min(report["stages"].values()) > 0
    assert max(report["rounding"].values()) <= 1e-4
    masked = report["stock, flash attention"]["forward 64²"]["2 rows, one text half as long"]
    assert "not supported" in masked["error"], "the others are measured all the same"
    assert report["stock, flash attention"]["forward 64²"]["1 row"]["median"] > 0
    for name in ("flash attention", "compiled"):
        assert measured[name]["against stock"]["latents"] <= 1e-4
        assert measured[name]["forward 64²"]["3 rows, each text another length"]["tflops"] > 0
    assert measured["compiled"]["graphs compiled in service"] == 0
    assert measured["compiled"]["64², 2 steps"]["denoise"] > 0
    assert measured["compiled"]["batch"]["edits"] == 2
    short = measured["compiled"]["short of memory"]
    assert [(each["rows"], each["out of memory"]) for each in short["forwards"]] == [
        (2, True), *[(1, False)] * 4
    ], "each row by itself, in both steps, and that it is needed is remembered"  # fmt: skip
    assert short["against room for both"]["latents"] <= 1e-4
    assert measured["compiled, fp8"]["error"].startswith("LoadError: QUANTIZATION=fp8: a CUDA GPU")
    assert 0 < measured["int8 text encoder"]["against stock"]["latents"] < 1
    shown = capsys.readouterr().out
    assert "| compiled |" in shown
    assert "aten::addmm" in shown, "the profile"


def test_what_was_measured_is_kept_whatever_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--checkpoint", "tiny", "--out", str(out)])
    monkeypatch.setattr(gpu, "age", lambda: 0.0)
    run = gpu.Run(gpu.parse_options())
    run.attempt(run.report, "first", lambda: 7)
    assert json.loads(out.read_text())["first"] == 7


def test_what_does_not_fit_into_the_time_is_skipped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--budget", "3", "--device", "cpu", "--checkpoint", "tiny"])
    monkeypatch.setattr(gpu, "age", lambda: 0.0)
    run = gpu.Run(gpu.parse_options())
    results: dict[str, object] = {}
    assert run.attempt(results, "quick", lambda: 7, seconds=1) == 7
    run.attempt(results, "slow", lambda: pytest.fail("began"), seconds=60)
    assert "60 s needed" in str(results["slow"])


def test_every_option_has_a_name_of_its_own() -> None:
    assert len({option.name for option in gpu.OPTIONS}) == len(gpu.OPTIONS)
