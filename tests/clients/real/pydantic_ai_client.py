"""Pydantic AI's ImageGenerator with pictures: make test-clients"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import Service
from tests.clients.real.conftest import Outcomes, outcomes_of
from tests.kit.wire import Tee, save

SCRIPT = Path(__file__).with_name("pydantic_ai_edits.py")


@pytest.fixture(scope="module")
def outcomes(service: Service, front: Tee, small: Path, tool: Callable[..., Path]) -> Outcomes:
    outcomes = outcomes_of(tool("pydantic_ai", "bin", "python"), SCRIPT, front.url, service.key, small)
    save("pydantic_ai", front.exchanges, *outcomes)
    return outcomes


def test_a_picture_is_edited(outcomes: Outcomes) -> None:
    edited = outcomes["edit"]
    assert edited["pictures"] == ["image/png"]
    assert all(tokens > 0 for tokens in edited["tokens"])


def test_pictures_are_references_of_one_edit_and_n_counts_its_outputs(outcomes: Outcomes) -> None:
    assert outcomes["two pictures, n=2"]["pictures"] == ["image/webp", "image/webp"]


def test_a_refusal_says_why(outcomes: Outcomes) -> None:
    refused = outcomes["refused"]
    assert (refused["error"], refused["status"]) == ("ModelHTTPError", 400)
    assert "size must be" in refused["message"]
    assert "12x12" in refused["message"]
