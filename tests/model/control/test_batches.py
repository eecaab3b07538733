"""The rows of a request: what each is told apart by, and how their answers become one."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from qwen_edit.control.batches import Batch, of_row, parse_rows, stacked
from qwen_edit.errors import BadRequest, EditError, Failed, QueueFull
from qwen_edit.job import Outcome
from qwen_edit.request import Defaults, EditRequest
from qwen_edit.settings import Limits

DEFAULTS = Defaults(num_inference_steps=8, true_cfg_scale=4.0, negative_prompt=" ")


def parsed(rows: int, request_id: str = "r", max_rows: int = 8) -> list[EditRequest]:
    tensors: dict[str, Any] = {
        "image": np.array([[b"picture"]] * rows, np.object_),
        "prompt": np.array([[f"prompt {row}".encode()] for row in range(rows)], np.object_),
    }
    return parse_rows(
        tensors, Limits(), DEFAULTS, request_id=request_id, now=9.0, unix_now=9.0, max_rows=max_rows
    )  # fmt: skip


class Whole:
    """A reply that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.cancel = False

    def outcomes(self, outcomes: object) -> None:
        self.told.append(outcomes)

    def error(self, error: EditError) -> None:
        self.told.append(error.message)

    def cancelled(self) -> bool:
        return self.cancel


@pytest.mark.parametrize(
    ("request_id", "ids"), [("edit", ["edit-1", "edit-2"]), ("edit.3", ["edit-1.3", "edit-2.3"])], ids=str
)
def test_rows_are_siblings_that_are_known_again_when_the_request_is_sent_again(request_id: str, ids: list[str]) -> None:
    edits = parsed(2, request_id)
    assert [edit.id for edit in edits] == ids
    assert [edit.edit_id for edit in edits] == ["edit-1", "edit-2"]
    assert [edit.siblings for edit in edits] == [2, 2]
    assert [edit.prompt for edit in edits] == ["prompt 0", "prompt 1"]


def test_one_row_is_a_request_as_ever() -> None:
    (edit,) = parsed(1)
    assert (edit.id, edit.siblings) == ("r", 1)


def test_rows_without_a_request_id_are_told_apart_and_their_seeds_differ() -> None:
    edits = parsed(3, "")
    assert len({edit.edit_id for edit in edits}) == 3
    assert len({edit.edit_id.partition("-")[0] for edit in edits}) == 1
    assert len({edit.seed for edit in edits}) == 3


def test_more_rows_than_the_server_ever_holds_are_not_told_to_come_again() -> None:
    with pytest.raises(BadRequest, match="batch size 4: this server holds at most 3 edits"):
        parsed(4, max_rows=3)


def test_the_first_error_answers_the_request_and_no_row_is_wanted_any_more() -> None:
    whole = Whole()
    first, second = Batch(whole, 2).rows()
    assert not first.cancelled()
    second.error(Failed("the model failed"))
    assert first.cancelled()
    first.error(Failed("another"))
    assert whole.told == ["failed: row 2 of 2: the model failed"]


@pytest.mark.parametrize("kind", ["outcomes", "error"])
def test_a_request_whose_answer_could_not_be_sent_can_be_told_an_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(answer: object) -> None:
        raise MemoryError

    whole, told = Whole(), cast("Outcome", "told")
    first, second = Batch(whole, 2).rows()
    first.outcome(told)
    with monkeypatch.context() as broken:
        broken.setattr(whole, kind, fail)
        with pytest.raises(MemoryError):
            second.outcome(told) if kind == "outcomes" else second.error(Failed("the model failed"))
    second.error(Failed("the answer could not be sent"))
    assert whole.told == ["failed: row 2 of 2: the answer could not be sent"]


def test_a_cancelled_request_has_no_row_that_is_wanted() -> None:
    whole = Whole()
    rows = Batch(whole, 2).rows()
    whole.cancel = True
    assert rows[0].cancelled()
    whole.cancel = False  # it is told once, to whoever asks first
    assert rows[1].cancelled()


def test_the_first_size_is_that_of_all_rows() -> None:
    first, second, third = Batch(Whole(), 3).rows()
    second.sized((96, 64))
    first.sized((96, 64))
    with pytest.raises(BadRequest, match="size: 64x96, where row 2 has 96x64"):
        third.sized((64, 96))


def test_what_is_no_rows_fault_names_none() -> None:
    error = QueueFull("64 edits are waiting: retry in 3 s")
    assert of_row(error, 1, 2) is error


def test_where_one_picture_is_transparent_all_have_an_alpha() -> None:
    picture, alpha = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint8)
    opaque: dict[str, Any] = {"image": picture, "alpha": None, "latents": None}

    assert stacked([opaque]).keys() == {"image"}
    together = stacked([opaque, {**opaque, "alpha": alpha}])
    assert together.keys() == {"image", "alpha"}
    assert np.array_equal(together["alpha"], [np.full((4, 6), 255), alpha])
