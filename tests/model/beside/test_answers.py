"""An answer that cannot be sent, of which its caller must hear all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qwen_edit.errors import BadRequest, EditError, Failed
from qwen_edit.job import Outcome

from tests.kit.engines import TestEngine, edit, engine_on, load_pipeline
from tests.kit.in_process import Answer, wait_until


class Unsendable(Answer):
    """A reply that can tell errors alone."""

    def outcome(self, outcome: Outcome) -> None:
        raise MemoryError("no room for the tensors")


class Gone(Unsendable):
    def error(self, error: EditError) -> None:
        raise RuntimeError("the response sender has been closed")


class Wordless(Answer):
    """A reply that cannot tell every error."""

    def error(self, error: EditError) -> None:
        if isinstance(error, BadRequest):
            raise UnicodeEncodeError("utf-8", error.message, 0, 1, "surrogates not allowed")
        super().error(error)


@pytest.fixture(scope="module")
def pipeline(checkpoint: Callable[[str], Path]) -> Any:
    return load_pipeline(checkpoint("plus-2511"))


@pytest.fixture
def engine(pipeline: Any) -> Iterator[TestEngine]:
    with engine_on(pipeline) as running:
        yield running


@pytest.fixture
def cat(photo: Callable[[str], bytes]) -> bytes:
    return photo("cat")


def test_who_cannot_be_sent_the_outcome_is_told_so_and_it_counts_as_failed(engine: TestEngine, cat: bytes) -> None:
    answer = Unsendable()
    engine.engine.submit(edit(cat), answer)
    with pytest.raises(Failed, match="the answer could not be sent"):
        answer.wait()
    engine.submit(edit(cat)).wait()
    wait_until(lambda: engine.watch.edits == {"failed": 1, "finished": 1})


def test_who_cannot_be_told_the_error_in_its_words_is_told_that_there_is_one(engine: TestEngine, cat: bytes) -> None:
    answer = Wordless()
    engine.engine.submit(edit(b"not a picture"), answer)
    with pytest.raises(Failed, match="the answer could not be sent"):
        answer.wait()
    engine.submit(edit(cat)).wait()


def test_where_no_error_can_be_told_either_the_process_ends_so_that_nobody_waits_for_ever(
    engine: TestEngine, cat: bytes
) -> None:
    engine.engine.submit(edit(cat), Gone())
    assert engine.process_ended.wait(20)
    assert engine.watch.edits["finished"] == 0
