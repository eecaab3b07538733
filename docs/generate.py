"""Writes the tables of the documents and .env.example from what the code declares, and a figure from what was measured.

.venv/bin/python -m docs.generate            # write, as `make docs` does
.venv/bin/python -m docs.generate --check    # write nothing; name the files that differ, exit status 1
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import shim.settings
import standalone.settings
from docs import chart_values, overload_figure
from shim.reading.fields import markdown_rows
from standalone.parts import model_settings
from standalone.settings_grammar import Setting, settings_of, text

PROJECT = Path(__file__).resolve().parents[1]
LINE_CHARS = 120
PLACE = re.compile(r"(<!-- `make docs` writes the table of ([^\n]+) -->\n).*?(<!-- end -->)", re.DOTALL)

ABOUT_THE_EXAMPLE = """\
# Every setting with its default; nothing after the = sign means that the default depends on something else.
# Containers: cp .env.example .env, and docker compose reads it. The launcher and direct starts read the environment:
#   set -a; . ./.env; set +a; make serve
# `make docs` writes this file from the declarations in the code.
"""


def declared_by_part() -> dict[str, list[Setting[Any]]]:
    return {
        "the launcher and the supervisor": list(settings_of(standalone.settings.Settings)),
        "the shim": list(settings_of(shim.settings.Settings)),
        "the model": list(settings_of(model_settings(PROJECT / "model_repository"))),
    }


def sections() -> dict[str, list[Setting[Any]]]:
    """All settings by who reads them."""
    parts = declared_by_part()
    declared = {setting.name: setting for part in parts.values() for setting in part}
    for part, settings in parts.items():
        for each in settings:
            if words_of(each) != words_of(declared[each.name]):
                raise SystemExit(f"{each.name} is declared otherwise by {part} than by another part")
    readers = Counter(setting.name for part in parts.values() for setting in part)
    return {
        "several parts": [declared[name] for name, count in readers.items() if count > 1],
        **{part: [each for each in settings if readers[each.name] == 1] for part, settings in parts.items()},
        "docker-compose.yml alone": [of_docker_compose()],
    }


def words_of(setting: Setting[Any]) -> tuple[str, str, str]:
    """What the documents say of it."""
    return default_of(setting), setting.cast.allowed, setting.says


def of_docker_compose() -> Setting[str]:
    says = (
        "The machine's address on which the shim's `PORT` is published. 0.0.0.0: to all, past most firewalls, as "
        "Docker's rules come first; set `API_KEY` then."
    )
    return Setting("HOST_ADDRESS", text, "127.0.0.1", says, computed=False)


def default_of(setting: Setting[Any]) -> str:
    """As the variable would say it; empty where it depends on something else."""
    default = setting.default
    if setting.computed or default in (None, ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def example_environment() -> str:
    blocks = [ABOUT_THE_EXAMPLE]
    for readers, settings in sections().items():
        blocks += [f"\n# --- Read by {readers} ---\n", *map(example_of, settings)]
    return "".join(blocks)


def example_of(setting: Setting[Any]) -> str:
    allowed = f" Allowed: {setting.cast.allowed}." if setting.cast.allowed else ""
    says = textwrap.wrap(setting.says + allowed, LINE_CHARS - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in says) + f"#{setting.name}={default_of(setting)}\n"


def settings_rows(settings: Iterable[Setting[Any]]) -> Iterator[tuple[str, ...]]:
    yield "variable", "default", "allowed", "meaning"
    for each in settings:
        yield f"`{each.name}`", default_of(each) or "–", each.cast.allowed or "any text", each.says


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """In Markdown; the first row is the head."""
    head, *body = (f"| {' | '.join(row)} |\n" for row in rows)
    return head + "|---" * (head.count(" | ") + 1) + "|\n" + "".join(body)


def tables() -> dict[str, Iterable[tuple[str, ...]]]:
    """The rows of every table by what it is called where it is to be written."""
    settings = {f"settings of {readers}": settings_rows(each) for readers, each in sections().items()}
    fields = [("field", "values", "default"), *markdown_rows()]
    return {
        **settings,
        "the fields of an edit": fields,
        "the values of the chart": chart_values.rows(),
        "the presets of quality": quality_rows(),
    }


def quality_rows() -> Iterator[tuple[str, ...]]:
    """What each preset is, and what it costs with the two usual numbers of steps."""
    model_settings(PROJECT / "model_repository")  # the model's package can be imported from now on
    from qwen_edit.families.quality import QUALITIES, Quality, quality_of
    from qwen_edit.forward.skipping import computed
    from qwen_edit.settings import OFF

    usual = (40, 50)
    yield "`quality`", "steps, of the model's own", "step cache", *(f"forwards of {steps}" for steps in usual)
    for word, (share, cache) in QUALITIES.items():
        chosen = [quality_of(word, Quality(steps, OFF), most_steps=100) for steps in usual]
        costs = [f"{computed(0, each.steps, each.steps, cache)} for {each.steps} steps" for each in chosen]
        yield f"`{word}`", f"× {share}", f"`{cache}`", *costs


def with_tables(document: str) -> str:
    rows = tables()
    return PLACE.sub(lambda place: f"{place[1]}\n{table(rows[place[2]])}\n{place[3]}", document)


def documents() -> Iterator[tuple[Path, str]]:
    """Every file that is written here, and what it has to say."""
    yield PROJECT / ".env.example", example_environment()
    parts = declared_by_part()
    of_triton = parts["the launcher and the supervisor"] + parts["the model"]
    yield chart_values.SCHEMA, chart_values.schema({"triton": of_triton, "shim": parts["the shim"]})
    yield overload_figure.FIGURE, overload_figure.figure()
    for path in sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]):
        yield path, with_tables(path.read_text("utf-8"))


def main(arguments: list[str]) -> int:
    differing = {path: written for path, written in documents() if path.read_text("utf-8") != written}
    if arguments == ["--check"]:
        for path in differing:
            print(f"{path.relative_to(PROJECT)} differs from the code: make docs", file=sys.stderr)
        return 1 if differing else 0
    for path, written in differing.items():
        path.write_text(written, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
