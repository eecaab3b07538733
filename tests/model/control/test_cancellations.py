from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from qwen_edit.control import cancellations as module
from qwen_edit.control.cancellations import KEPT_SECONDS, Cancellations


def test_an_edit_that_was_cancelled_is_told_once_and_no_other_is(tmp_path: Path) -> None:
    cancellations = Cancellations(tmp_path)
    cancellations.add("one")
    assert not cancellations.take("two")
    assert cancellations.take("one")
    assert not cancellations.take("one")


def test_an_instance_is_told_by_another(tmp_path: Path) -> None:
    Cancellations(tmp_path).add("one")
    assert Cancellations(tmp_path).take("one")


def test_an_id_may_hold_anything(tmp_path: Path) -> None:
    cancellations = Cancellations(tmp_path / "below" / "it")
    for name in ("../../etc/passwd", "\x00", "a" * 1000, "ä"):
        cancellations.add(name)
        assert cancellations.take(name)


def test_what_nobody_had_is_forgotten_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are looked at once in a second, whatever comes."""
    cancellations = Cancellations(tmp_path)
    cancellations.add("old")
    (mark,) = tmp_path.iterdir()
    long_ago = time.time() - KEPT_SECONDS - 1
    os.utime(mark, (long_ago, long_ago))
    cancellations.add("new")
    assert mark.exists()
    monkeypatch.setattr(module, "FORGET_SECONDS", 0.0)
    cancellations.add("new")
    assert not cancellations.take("old")
    assert cancellations.take("new")


def test_its_folder_is_made_again_where_a_cleaner_of_temporary_files_has_removed_it(tmp_path: Path) -> None:
    cancellations = Cancellations(tmp_path / "cancelled")
    shutil.rmtree(tmp_path)
    assert not cancellations.take("one")
    cancellations.add("one")
    assert cancellations.take("one")
