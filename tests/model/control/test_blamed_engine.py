"""The engine among edits of which some are suspected of its predecessors' deaths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from qwen_edit.control.blame import Blame
from qwen_edit.control.noted import Noted
from qwen_edit.errors import Failed
from qwen_edit.pipeline import Devices

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


def test_while_there_are_suspects_a_gpu_has_done_what_is_noted_before_the_note_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told what to do and dies later, of the step that was noted before: two cards stand in."""
    waited: list[tuple[torch.device, int]] = []
    note = tmp_path / "at_work" / f"{INSTANCE}.json"

    def synchronize(device: torch.device) -> None:
        waited.append((device, len(json.loads(note.read_text())["at_work"])))

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    dies_at(tmp_path, "suspect")
    blame = Blame(tmp_path, INSTANCE)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    worker = Mock(devices=Devices(first, second, second))
    noted, job = Noted(worker, blame), Mock(request=Mock(edit_id="other"))
    for work in (noted.encode, noted.begin, lambda job: noted.step([job])):
        work(job)
        assert waited == []
    assert blame.take("suspect")
    for work in (noted.encode, noted.begin, lambda job: noted.step([job])):
        work(job)
        assert sorted(waited, key=str) == [(first, 1), (second, 1)]
        waited.clear()
