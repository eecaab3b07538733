"""docs/overload.svg, from what `make bench-late ARGS=overload` counted on two commits.

make bench-overload_figure
"""

from __future__ import annotations

from pathlib import Path

from tests.kit.servers import PROJECT

FIGURE = PROJECT / "docs" / "overload.svg"
WIDTH, LEFT, BAR, GAP = 680, 190, 26, 12
GOOD, REFUSED, LOST, INK = "#2e7d5b", "#667085", "#c2503f", "#5c6673"

# RESULTS.md, "Overload with deadlines": requests by status, then steps.
ROWS: list[tuple[str, list[tuple[float, str, str]]]] = [
    ("requests, before", [(5, GOOD, "5 pictures"), (166, LOST, "166 timed out")]),
    ("requests, now", [(34, GOOD, "34 pictures"), (133, REFUSED, "133 refused at once, told when to come again")]),
    ("steps made, before", [(400, GOOD, "12 %"), (2857, LOST, "88 % for pictures that nobody got")]),
    ("steps made, now", [(2788, GOOD, "99.4 % delivered"), (16, LOST, "")]),
]


def bar(top: int, name: str, parts: list[tuple[float, str, str]]) -> list[str]:
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
    height = len(ROWS) * (BAR + GAP) + 8
    lines = [line for number, row in enumerate(ROWS) for line in bar(number * (BAR + GAP), *row)]
    said = "At five times what it can do: pictures, refusals and time-outs, and steps delivered, before and now"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="13">', *lines, "</svg>", ""])


def main(path: Path = FIGURE) -> None:
    path.write_text(figure(), "utf-8")


if __name__ == "__main__":
    main()
