"""The report of benchmarks.gpu as Markdown."""

from __future__ import annotations

from typing import Any


def print_report(report: dict[str, Any]) -> None:
    print(f"\n{report['versions']}")
    for name in ("ceilings", "self-check", "stages", "rounding", "stock, flash attention"):
        print(f"\n{name}: {report.get(name)}")
    print()
    cases = [name for name in report["stock"] if not name.startswith("forward") and name != "profile"]
    sizes = [name for name in report["stock"] if name.startswith("forward")]
    columns = [*sizes, *cases, "against stock", "batch", "peak"]
    print("| option | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, results in {"stock": report["stock"], **report["options"]}.items():
        if "error" in results:
            print(f"| {name} | {results['error']} |")
            continue
        cells = [cell(column, results) for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for name, results in report["options"].items():
        if results.get("host waits in a step") is not None:
            print(f"\n{name}, where the host waits for the GPU in a step: {results['host waits in a step']}")
        for what in ("texts of new lengths", "short of memory", "graphs compiled in service"):
            if what in results:
                print(f"\n{name}, {what}: {results[what]}")
    for name, results in {"stock": report["stock"], **report["options"]}.items():
        if "top" in results.get("profile", {}):
            print_profile(name, results["profile"])


def print_profile(name: str, profile: dict[str, Any]) -> None:
    print(f"\n{name}, one forward of one row; attention: {', '.join(profile['attention'])}\n")
    for each in profile["top"]:
        print(f"    {each['seconds'] * 1000:9.3f} ms {each['share']:6.1%}  {each['name'][:90]}")


def cell(column: str, results: dict[str, Any]) -> str:
    if column == "peak":
        return f"{results['peak_bytes'] / 1e9:.1f} GB" if results.get("peak_bytes") else ""
    value = results.get(column)
    if not isinstance(value, dict):
        return ""
    if "error" in value or "skipped" in value:
        return "error" if "error" in value else "skipped"
    if column.startswith("forward"):
        return " / ".join(
            f"{each['median']:.4f} s {each['tflops']:.0f} TF" if "median" in each else "–" for each in value.values()
        )
    if column == "against stock":
        return f"{value['latents']:.1e}, " + (f"{value['psnr']:.0f} dB" if value["psnr"] else "equal pictures")
    if column == "batch":
        return f"{value['ratio']:.2f}×"
    return f"{value['median']:.2f} s"
