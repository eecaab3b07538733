from __future__ import annotations

from pathlib import Path

import pytest
from qwen_edit.control.blame import Blame
from qwen_edit.errors import Failed

from standalone.blame import acquit
from tests.kit.dead_workers import begin


def test_of_workers_that_were_ended_for_anothers_fault_nothing_is_kept(tmp_path: Path) -> None:
    """Three instances of one server, each at an edit; the first one's engine stood still, twice."""
    for _ in range(2):
        for instance in ("one", "two", "three"):
            begin(Blame(tmp_path, instance), f"edit of {instance}")
        acquit(tmp_path, {"one"})
    blame, *_ = (Blame(tmp_path, instance) for instance in ("one", "two", "three"))
    with pytest.raises(Failed, match="2 workers"):
        blame.take("edit of one")
    assert not blame.take("edit of two")
    assert not blame.take("edit of three")


def test_before_any_worker_has_noted_anything_there_is_nothing_to_acquit(tmp_path: Path) -> None:
    acquit(tmp_path, set())
    assert list(tmp_path.iterdir()) == []
