"""docs/overload.svg, from the table of overload in benchmarks/RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FIGURE = PROJECT / "docs" / "overload.svg"
RESULTS = PROJECT / "benchmarks" / "RESULTS.md"
LINES = re.compile(r"^\|.*\|$", re.MULTILINE)
WIDTH, LEFT, BAR, GAP = 680, 190, 26, 12
GOOD, REFUSED, LOST, INK = "#2e7d5b", "#667085", "#c2503f", "#5c6673"

Part = tuple[float, str, str]  # how much of the bar, its colour, its words


def measured() -> dict[str, dict[str, float]]:
    """The rows of the table under "Overload with deadlines" in RESULTS.md, by their commits."""
    text = RESULTS.read_text("utf-8").partition("## Overload with deadlines")[2].partition("\n## ")[0]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in LINES.findall(text))
    return {
        row[0]: {name: float(cell.split(" ")[0]) for name, cell in zip(head[1:], row[1:], strict=True)} for row in rows
    }


def rows() -> Iterator[tuple[str, list[Part]]]:
    for when, of in zip(("before", "now"), measured().values(), strict=True):
        parts = [(of["200"], GOOD, "pictures"), (of["429"], REFUSED, "refused at once, told when to come again"),
                 (of["504"], LOST, "timed out")]  # fmt: skip
        yield f"requests, {when}", [(count, colour, f"{count:.0f} {words}") for count, colour, words in parts if count]
        made, delivered = of["steps made"], of["delivered"]
        share = 100 * delivered / made
        yield (
            f"steps made, {when}",
            [
                (delivered, GOOD, f"{share:.1f} % delivered"),
                (made - delivered, LOST, f"{100 - share:.1f} % for pictures that nobody got"),
            ],
        )


def bar(top: int, name: str, parts: list[Part]) -> list[str]:
    total = sum(amount for amount, _, _ in parts)
    lines = [f'<text x="{LEFT - 10}" y="{top + 18}" text-anchor="end" fill="{INK}">{name}</text>']
    left = float(LEFT)
    for amount, colour, words in parts:
        width = (WIDTH - LEFT) * amount / total
        lines.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
        if words and width > 6.5 * len(words):
            lines.append(f'<text x="{left + 8:.1f}" y="{top + 18}" fill="#fff">{words}</text>')
        left += width
    return lines


def figure() -> str:
    shown = sorted(rows(), key=lambda row: row[0].partition(",")[0])
    height = len(shown) * (BAR + GAP) + 8
    lines = [line for number, row in enumerate(shown) for line in bar(number * (BAR + GAP), *row)]
    said = "At five times what it can do: pictures, refusals and time-outs, and steps delivered, before and now"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="13">', *lines, "</svg>", ""])
