"""Workers that died in the middle of their work, as their successors find them: by a note that nobody took back."""

from __future__ import annotations

import threading
from pathlib import Path

from qwen_edit.control.blame import Blame

INSTANCE = "qwen_image_edit_0_0"
ENDLESS: list[object] = []  # work in whose middle its worker died: never left


def begin(blame: Blame, *edits: str) -> None:
    work = blame.at_work(*edits, keep=True)
    ENDLESS.append(work)
    work.__enter__()


def dies_at(folder: Path, *edits: str) -> None:
    """A worker takes the edits and dies in a forward of all of them."""
    blame = Blame(folder, INSTANCE)
    for each in edits:
        blame.take(each)
    begin(blame, *edits)


def dies_at_two_things(folder: Path, first: str, second: str) -> None:
    """Each on a thread of its own, where both may be done at a time; else at the first."""
    blame = Blame(folder, INSTANCE)
    for each in (first, second):
        blame.take(each)
    begin(blame, first)
    beside = threading.Thread(target=begin, args=(blame, second), daemon=True)
    beside.start()
    beside.join(0.2)
