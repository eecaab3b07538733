"""The engine among edits of which some are suspected of its predecessors' deaths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from qwen_edit.control.blame import Blame
from qwen_edit.errors import Failed

from tests.kit.dead_workers import INSTANCE, dies_at
from tests.kit.engines import edit, engine_on, load_pipeline


def test_suspects_run_alone_the_guilty_is_not_taken_and_the_others_share_their_forwards(
    checkpoint: Callable[[str], Path], photo: Callable[[str], bytes], tmp_path: Path
) -> None:
    """Two of them are outputs of one request."""
    names = ("request-0", "request-1", "other-0", "another-0")
    guilty, suspect, *others = (
        edit(photo("cat"), num_inference_steps=6, edit_id=name, seed=seed) for seed, name in enumerate(names)
    )
    for _ in range(2):
        dies_at(tmp_path, guilty.edit_id)
    for _ in range(2):
        dies_at(tmp_path, suspect.edit_id, "somebody who gave up")
    with engine_on(load_pipeline(checkpoint("plus")), blame=Blame(tmp_path, INSTANCE)) as engine:
        with pytest.raises(Failed, match="2 workers died or hung"):
            engine.submit(guilty)
        for answer in [engine.submit(request) for request in (suspect, *others)]:
            answer.wait()
        batches = engine.worker.batches
        assert batches.count([suspect.id]) == 6
        assert max(map(len, batches)) == 2
    assert not Blame(tmp_path, INSTANCE).take(suspect.edit_id), "it was answered"


def test_what_it_is_at_is_noted_while_it_is(
    checkpoint: Callable[[str], Path], photo: Callable[[str], bytes], tmp_path: Path
) -> None:
    noted = []

    def note() -> None:
        noted.append(json.loads((tmp_path / "at_work" / f"{INSTANCE}.json").read_text())["at_work"])

    with engine_on(load_pipeline(checkpoint("plus")), blame=Blame(tmp_path, INSTANCE)) as engine:
        request = edit(photo("cat"), num_inference_steps=3)
        engine.worker.before_step = note
        engine.worker.encoded = {request.id: lambda state: note()}
        engine.submit(request).wait()
        note()
    assert [len(names) for names in noted[:-1]] == [1] * 4, "encoding and three steps, each for one edit"
    assert noted[-1] == []
